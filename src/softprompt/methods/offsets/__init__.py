"""What is added to the token embeddings of the source: a file for each way, with the entry of its method."""
