"""Faults on purpose, and what they cost: one part a file, each a generator of records. ``__main__`` runs them."""
