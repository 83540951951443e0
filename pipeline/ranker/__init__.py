"""Training the ranker without deceiving it."""
