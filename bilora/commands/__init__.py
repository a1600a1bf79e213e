"""The verbs of the command `bilora`."""
