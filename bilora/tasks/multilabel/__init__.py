"""Whole texts with any number of labels each."""
