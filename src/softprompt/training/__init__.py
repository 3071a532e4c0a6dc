"""Tuning: one loop for a bank of prompts, checkpoints, and what a run leaves behind."""
