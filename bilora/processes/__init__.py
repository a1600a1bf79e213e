"""Several processes as one: who is first, what is shared, what is taken in turn."""
