"""From a finished run to what servers load."""
