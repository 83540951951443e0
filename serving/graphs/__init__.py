"""What stands inside an exported graph."""
