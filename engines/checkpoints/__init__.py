"""A run stopped and gone on with."""
