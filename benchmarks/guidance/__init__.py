"""Classifier guidance: a noisy classifier beside a denoise-augmented one."""
