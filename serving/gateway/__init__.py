"""The HTTP face of the models, and the pages."""
