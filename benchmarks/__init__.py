"""One script per claim over one small harness. See README.md for the claims and commands."""
