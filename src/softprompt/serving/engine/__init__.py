"""Batches, caches and sampling: no HTTP."""
