"""Tuned prompts in the formats of other libraries. An exporter knows what a prompt folds to, never its method."""

from softprompt.export.peft import write_peft

__all__ = ["EXPORTS", "write_peft"]

EXPORTS = {"peft": write_peft}
"""A format's name (`softprompt export --to`) -> what writes it: (prompt, kind of its backbone, folder)."""
