"""Serving named soft prompts of one frozen model: the engine and its batches, the bank of prompts, and HTTP over them."""
