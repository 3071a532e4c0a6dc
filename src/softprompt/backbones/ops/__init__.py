"""How the frozen model is computed fast."""
