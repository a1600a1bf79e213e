"""Tasks that answer with text."""
