"""The engine: batches, caches and sampling. It knows no HTTP."""
