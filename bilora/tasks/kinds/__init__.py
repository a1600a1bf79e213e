"""What training and scoring ask of a kind of task: text, tokens, generation."""
