"""Tuned prompts in the formats of other libraries. An exporter knows what a prompt folds to, never its method."""

from softprompt.runs.formats.peft_adapter import Adapter, read_adapter
from softprompt.runs.formats.peft_export import write_peft
from softprompt.runs.formats.peft_import import Imported, interpret
from softprompt.runs.formats.vllm_export import write_vllm

__all__ = ["EXPORTS", "Adapter", "Imported", "interpret", "read_adapter", "write_peft", "write_vllm"]

EXPORTS = {"peft": write_peft, "vllm": write_vllm}
"""A format's name (`softprompt export --to`) -> what writes it: (prompt, what its backbone is, folder) -> notes."""
