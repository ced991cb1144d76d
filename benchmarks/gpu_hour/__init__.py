"""An hour on a GPU: one part a file, each a generator of records. ``__main__`` runs them in their order."""
