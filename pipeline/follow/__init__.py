"""Following the event log between two jobs."""
