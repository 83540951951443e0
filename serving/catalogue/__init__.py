"""What the gateway shows, with the changes since the release."""
