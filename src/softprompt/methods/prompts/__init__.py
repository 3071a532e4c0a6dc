"""How the learned rows are made: a file for each way, with the entry of the method that introduced it."""
