"""HTTP: routes, schemas and errors. It knows no tensors."""
