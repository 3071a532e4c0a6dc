"""softprompt: soft-prompt tuning of frozen language models.

The names below are loaded when they are first used, so `import softprompt` alone loads no model code.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from softprompt.backbones.attach import attach
    from softprompt.backbones.load import load_backbone
    from softprompt.errors import SoftPromptError
    from softprompt.experiments.compare import compare
    from softprompt.experiments.reproduce import reproduce
    from softprompt.experiments.sweep import sweep
    from softprompt.methods.options import Options, Rate
    from softprompt.methods.registry import Method, register_method
    from softprompt.methods.soft_prompt import OffsetPart, PromptPart, SoftPrompt
    from softprompt.runs.convert import export_prompt, import_prompt
    from softprompt.runs.external import make_prompt, save_prompt
    from softprompt.runs.predict import evaluate, predict
    from softprompt.runs.prompt import Prompt, load_prompt
    from softprompt.tasks.task import Example, Task
    from softprompt.training.distillation import distil
    from softprompt.training.train import resume, train

_HOMES = {
    "Example": "tasks.task",
    "Method": "methods.registry",
    "OffsetPart": "methods.soft_prompt",
    "Options": "methods.options",
    "Prompt": "runs.prompt",
    "PromptPart": "methods.soft_prompt",
    "Rate": "methods.options",
    "SoftPrompt": "methods.soft_prompt",
    "SoftPromptError": "errors",
    "Task": "tasks.task",
    "attach": "backbones.attach",
    "compare": "experiments.compare",
    "distil": "training.distillation",
    "evaluate": "runs.predict",
    "export_prompt": "runs.convert",
    "import_prompt": "runs.convert",
    "load_backbone": "backbones.load",
    "load_prompt": "runs.prompt",
    "make_prompt": "runs.external",
    "predict": "runs.predict",
    "register_method": "methods.registry",
    "reproduce": "experiments.reproduce",
    "resume": "training.train",
    "save_prompt": "runs.external",
    "sweep": "experiments.sweep",
    "train": "training.train",
}

__all__ = [
    "Example",
    "Method",
    "OffsetPart",
    "Options",
    "Prompt",
    "PromptPart",
    "Rate",
    "SoftPrompt",
    "SoftPromptError",
    "Task",
    "attach",
    "compare",
    "distil",
    "evaluate",
    "export_prompt",
    "import_prompt",
    "load_backbone",
    "load_prompt",
    "make_prompt",
    "predict",
    "register_method",
    "reproduce",
    "resume",
    "save_prompt",
    "sweep",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("softprompt")
    if name not in _HOMES:
        raise AttributeError(f"module 'softprompt' has no attribute {name!r}")
    return getattr(import_module(f"softprompt.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
