"""Every metric, its requests and its intervals, in NumPy."""
