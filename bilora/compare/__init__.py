"""Several methods on the same rows and seeds, and what the difference is worth."""
