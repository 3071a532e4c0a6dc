"""Runs on disk, and what can be done with them: predict, evaluate, convert, start from."""
