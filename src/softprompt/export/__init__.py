"""Tuned prompts in the formats of other libraries. An exporter knows what a prompt folds to, never its method."""

from softprompt.export.peft import write_peft
from softprompt.export.vllm import write_vllm

__all__ = ["EXPORTS", "write_peft", "write_vllm"]

EXPORTS = {"peft": write_peft, "vllm": write_vllm}
"""A format's name (`softprompt export --to`) -> what writes it: (prompt, what its backbone is, folder) -> notes."""
