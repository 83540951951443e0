"""TF Serving's protocol on this machine, for development and tests."""
