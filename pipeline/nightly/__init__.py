"""The job that goes on from the last release, its checks and its gate."""
