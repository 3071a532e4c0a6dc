"""softprompt: soft-prompt tuning of frozen language models."""

from softprompt.artefact import Prompt, load_prompt
from softprompt.backbones import Backbone, load
from softprompt.commands import evaluate_run as evaluate
from softprompt.commands import predict_run as predict
from softprompt.commands import resume, train
from softprompt.comparison.run import compare
from softprompt.distillation import distil
from softprompt.embedding import SoftEmbedding, attach
from softprompt.errors import SoftPromptError
from softprompt.exchange import export_run, import_run
from softprompt.handmade import make_prompt, save_prompt
from softprompt.methods import METHODS
from softprompt.offsets import solve_budget
from softprompt.recipes import Plan, Recipe
from softprompt.recipes.registry import get_recipe
from softprompt.reproduce import reproduce
from softprompt.soft import Bank, Folded, Soft, SoftPrompt, Text
from softprompt.sweep import sweep
from softprompt.tasks import Example, Task, from_files, get_task

__all__ = [
    "METHODS",
    "Backbone",
    "Bank",
    "Example",
    "Folded",
    "Plan",
    "Prompt",
    "Recipe",
    "Soft",
    "SoftEmbedding",
    "SoftPrompt",
    "SoftPromptError",
    "Task",
    "Text",
    "attach",
    "compare",
    "distil",
    "evaluate",
    "export_run",
    "from_files",
    "get_recipe",
    "get_task",
    "import_run",
    "load",
    "load_prompt",
    "make_prompt",
    "predict",
    "reproduce",
    "resume",
    "save_prompt",
    "solve_budget",
    "sweep",
    "train",
]
__version__ = "0.1.0"
