"""What a finished run is worth."""
