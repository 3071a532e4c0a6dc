"""Prompts that other libraries tuned, as ours: read (`adapter`), understood (`peft`), never run from."""

from softprompt.imports.adapter import Adapter, read_adapter
from softprompt.imports.peft import Imported, understand

__all__ = ["Adapter", "Imported", "read_adapter", "understand"]
