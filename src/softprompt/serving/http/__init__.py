"""Routes, schemas and errors: no tensors."""
