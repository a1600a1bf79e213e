"""Where the pre-trained model comes from."""
