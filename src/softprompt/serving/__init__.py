"""Serving named soft prompts of one frozen model: the engine, its batches, the bank of prompts, and HTTP over them."""
