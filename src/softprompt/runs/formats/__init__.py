"""Tuned prompts in the formats of other libraries: `registry` names the exporters."""
