"""Releases on disk: written whole, labelled, rolled back, removed."""
