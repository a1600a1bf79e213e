"""How files are written: whole or not at all, and one writer per folder."""
