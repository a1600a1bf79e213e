"""The lower and the upper level as Betty problems."""
