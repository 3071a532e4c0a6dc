"""What a run leaves on disk, and what can be done with it."""
