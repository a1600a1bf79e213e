"""What watches a training: early stopping, the best step, records, trackers."""
