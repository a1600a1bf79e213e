"""What a run leaves for others: the adapter folder, its model card, what it was scored on."""
