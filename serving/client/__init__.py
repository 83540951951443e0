"""Asking a model server, as applications do."""
