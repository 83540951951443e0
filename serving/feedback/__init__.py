"""Events that came back, kept until they are learned from."""
