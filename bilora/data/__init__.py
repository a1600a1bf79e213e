"""Rows: read, checked, split into D1 and D2, and put into batches."""
