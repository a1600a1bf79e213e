"""Whole texts with a class or a number each."""
