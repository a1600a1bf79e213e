"""The same training behind the interface of `transformers.Trainer`."""
