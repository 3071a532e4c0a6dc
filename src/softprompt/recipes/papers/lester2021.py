"""Prompt tuning: Lester, Al-Rfou & Constant 2021, "The Power of Scale for Parameter-Efficient Prompt Tuning", EMNLP.

https://arxiv.org/abs/2104.08691; code: https://github.com/google-research/prompt-tuning
"""

from softprompt.errors import UnknownName
from softprompt.recipes.plan import Plan
from softprompt.recipes.recipe import Recipe
from softprompt.recipes.setting import Setting
from softprompt.tasks.published.spec import TaskSpec

CODE = "github.com/google-research/prompt-tuning"
TASKS = tuple(
    f"superglue/{name}" for name in ("boolq", "cb", "copa", "multirc", "record", "rte", "wic", "wsc")
)  # section 3: SuperGLUE


def prompt_tuning(task: str) -> Plan:
    """Make the paper's default: 100 rows that start from class labels, on an LM-adapted T5."""
    if task not in TASKS:
        raise UnknownName("task of prompt tuning", task, TASKS)
    text = task == "superglue/record"  # it has no labels
    return Plan(
        name=f"lester/{task.replace('/', '-')}",
        task=TaskSpec(task=task),
        setting=Setting(backbone="google/t5-base-lm-adapt", dtype="float32", max_source=512, dropout=True),
        recipe=Recipe(
            method="prompt_tuning",
            options={"length": 100, "start": "vocabulary" if text else "labels"},  # section 3.2
            optimizer="adafactor",  # section 3
            rates={"prompt": 0.3},  # section 3
            decay={"prompt": 1e-5},  # section 3
            batch=32,  # section 3
            steps=30_000,  # section 3
            schedule="constant",  # section 3
            warmup=0,
            clip=None,
            evaluate_every=1000,
            dev_limit=None,
        ),
        sources={
            "setting.backbone": "section 3.2: LM adaptation; sizes from small to XXL",
            "setting.dtype": "not stated; ours",
            "setting.dropout": f"{CODE}, runs/prompt_finetune.gin includes T5X's finetune.gin: dropout 0.1",
            "setting.max_source": f"{CODE}: sequences of 512",
            "options.length": "section 3.2: 100 tokens",
            "options.start": "section 3.2: class labels",
            "optimizer": "section 3: Adafactor, decay rate 0.8, no scaling by the parameter",
            "rates.prompt": "section 3",
            "decay.prompt": "section 3",
            "batch": "section 3",
            "steps": "section 3",
            "schedule": "section 3: a constant rate",
            "warmup": "section 3: a constant rate",
            "clip": "not stated; Adafactor clips its own update",
            "evaluate_every": "not stated; ours",
            "dev_limit": "not stated; ours: all of dev",
        },
        notes=(
            "The paper selects and reports on validation; here the protocol is fair. Templates are ours, not T5's.",
        ),
    )
