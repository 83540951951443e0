"""What a run may be told, section by section."""
