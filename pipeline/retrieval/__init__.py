"""Training, weighing and joining what retrieves."""
