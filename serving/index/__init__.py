"""Finding the best of many vectors."""
