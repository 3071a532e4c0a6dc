"""Sibling methods as their authors run them: rates, optimizer, length and steps, beside softprompt's own defaults.

Residual Prompt Tuning https://arxiv.org/abs/2305.03937, DPT https://arxiv.org/abs/2310.10094, ULPT
https://arxiv.org/abs/2502.04501, ADePT (ICLR 2025), SMoP https://aclanthology.org/2023.emnlp-main.884; each number is
from the repository that its source names. DPT warms up for 10 % of its steps; here it is 6 %. ATTEMPT needs prompts
that are trained first: `superpos-attempt/*`, or `train --method attempt --set sources=...`.
"""

from softprompt.recipes.plan import Fields, Plan
from softprompt.recipes.recipe import Recipe
from softprompt.recipes.setting import Setting
from softprompt.tasks.published.spec import TaskSpec

TASKS = (
    "glue/cola", "glue/mrpc", "glue/rte", "glue/stsb", "superglue/boolq", "superglue/cb", "superglue/multirc",
    "superglue/wic", "superglue/wsc",
)  # fmt: skip
CODES = {
    "residual": "github.com/arazd/ResidualPrompts",
    "dpt": "github.com/XYaoooo/DPT",
    "ulpt": "github.com/MANGA-UOFA/ULPT",
    "adept": "github.com/HungerPWAY/ADePT",
    "smop": "github.com/jyjohnchoi/SMoP",
}
RECIPES: dict[str, Fields] = {
    "residual": {
        "options": {"length": 10, "bottleneck": 400, "gain": 1.0}, "schedule": "constant", "warmup": 0, "batch": 8,
        "epochs": 20, "rates": {"prompt": 0.3, "network": 0.3, "norm": 0.3},
        "decay": {"prompt": 1e-5, "network": 1e-5, "norm": 1e-5},
    },
    "dpt": {
        "options": {"length": 100, "prompt_rank": 10, "start": "uniform"}, "batch": 16, "epochs": 100,
        "rates": {"weights": 0.3, "basis": 0.3}, "decay": {"weights": 1e-5, "basis": 1e-5},
    },
    "ulpt": {
        "options": {"length": 100, "prompt_rank": 64}, "batch": 16, "steps": 30_000, "warmup": 500,
        "rates": {"weights": 0.6, "affine": 0.6},
    },
    "adept": {
        "options": {"length": 60, "rank": 19}, "batch": 32, "steps": 30_000,
        "rates": {"prompt": 0.3, "offset": 1e-4, "offset_bias": 1e-4},
    },
    "smop": {
        "options": {"length": 5, "prompts": 4}, "batch": 32, "epochs": 50, "optimizer": "adafactor",
        "rates": {"prompt": 0.5, "router": 0.5}, "decay": {"prompt": 1e-5, "router": 1e-5},
    },
}  # fmt: skip
"""What each repository's README and code give."""
SILENT = ("Templates, label words, evaluation and what the repository does not give are ours; the protocol is fair.",)


def sibling(task: str, method: str) -> Plan:
    """Make the plan of one of these methods as its authors run it on T5-base."""
    fields = RECIPES[method]
    named = {"options", "rates", "decay"}
    given = [name for name in fields if name not in named]
    given += [f"{name}.{key}" for name in named & fields.keys() for key in fields[name]]
    source = f"{CODES[method]}, README and code"
    return Plan(
        name=f"{method}/{task.replace('/', '-')}",
        task=TaskSpec(task=task),
        setting=Setting(
            backbone="google-t5/t5-base",
            dtype="float32",
            max_source=512 if method == "residual" else 256,
            dropout=method == "residual",
        ),
        recipe=Recipe(method=method, evaluate_every="epoch" if "epochs" in fields else 1000, dev_limit=None, **fields),
        sources=dict.fromkeys(given, source)
        | {
            "setting.backbone": source,
            "setting.max_source": source,
            "setting.dtype": "not stated; ours",
            "setting.dropout": f"{CODES['residual']}: the frozen T5 stays in training mode",
            "evaluate_every": "ours",
            "dev_limit": "ours: all of dev",
        },
        notes=SILENT,
    )
