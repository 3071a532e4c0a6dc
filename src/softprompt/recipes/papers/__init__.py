"""The papers' recipes, one file a paper."""
