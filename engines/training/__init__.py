"""From levels and loaders to a finished training: stages, state, `fit`."""
