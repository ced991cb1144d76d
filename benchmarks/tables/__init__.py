"""Every table of the README, the model card and the documentation, by claim, each made from ``results/``."""
