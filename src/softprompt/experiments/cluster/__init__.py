"""Jobs over the machines of a Ray cluster."""
