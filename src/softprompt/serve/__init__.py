"""Serving named soft prompts of one frozen model: the engine and its batches, the bank of prompts, HTTP over them."""
