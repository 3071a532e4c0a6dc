"""Serve named soft prompts of one frozen model: the engine, the store of prompts, and HTTP over them."""
