"""How a name of a table, or a section of a configuration, becomes an object."""
