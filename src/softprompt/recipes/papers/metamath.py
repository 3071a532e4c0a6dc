"""GSM8K after MetaMathQA: the task of PEFT's own comparison of methods, an anchor on a modern decoder.

https://github.com/huggingface/peft, method_comparison/MetaMathQA (results of July 2026, single runs): Llama-3.2-3B
in bfloat16, 5,000 steps of 4 examples, AdamW, cosine, clipping 1.0. It shows that a vocabulary start is worth 11
points and the learning rate 18; nobody tried a rate above 0.001, fewer than 200 rows, or no weight decay.
"""

from softprompt.recipes.plan import Fields, Plan
from softprompt.recipes.recipe import Recipe
from softprompt.recipes.setting import Setting
from softprompt.recipes.tables import Column, Line, Table
from softprompt.tasks.published.spec import TaskSpec

SOURCE = "huggingface/peft, method_comparison/MetaMathQA/results, snapshot of July 2026"
TASK = "others/gsm8k"
COMMON: Fields = {
    "batch": 4, "steps": 5000, "schedule": "cosine", "warmup": 500, "clip": 1.0, "evaluate_every": 250, "dev_limit": 50,
}  # fmt: skip
_THEIRS = (*COMMON, "setting.backbone", "setting.dtype", "setting.max_source")
SETTING = Setting(backbone="meta-llama/Llama-3.2-3B", dtype="bfloat16", max_source=768)


def _peft(name: str, start: str, rate: float) -> Plan:
    return Plan(
        name=f"peft-{name}/others-gsm8k",
        task=TaskSpec(task=TASK, protocol="paper:peft"),
        setting=SETTING,
        recipe=Recipe(
            method="prompt_tuning",
            options={"length": 200, "start": start, "pool": None},
            rates={"prompt": rate},
            decay={"prompt": 0.01},
            train_on_inputs=True,
            **COMMON,
        ),
        sources=dict.fromkeys(
            ("options.length", "options.start", "options.pool", "rates.prompt", "decay.prompt", "train_on_inputs",
             *_THEIRS), SOURCE,
        ),
        notes=(
            "It pads on the right in training and on the left in evaluation, which moves the prompt; we do not.",
            "It learns the first token (BOS), too, which follows the prompt alone; we begin with the second.",
        ),
    )  # fmt: skip


def vocabulary(task: str = TASK) -> Plan:
    """Make the plan of PEFT's best prompt tuning: 34.3 %."""
    return _peft("vocabulary", "vocabulary", 1e-3)


def noise(task: str = TASK) -> Plan:
    """Make the plan of `vocabulary` with a random start: 23.4 %."""
    return _peft("noise", "normal", 1e-3)


def default(task: str = TASK) -> Plan:
    """Make the plan of PEFT's defaults, random start and rate 1e-4: 5.7 %."""
    return _peft("default", "normal", 1e-4)


def ours(task: str = TASK) -> Plan:
    """Apply the lessons of that table: a vocabulary start, 50 rows, no decay, and the rate as a grid. Not run yet."""
    return Plan(
        name="ours/others-gsm8k",
        task=TaskSpec(task=TASK),
        setting=SETTING,
        recipe=Recipe(method="prompt_tuning", options={"length": 50}, decay={"prompt": 0.0}, **COMMON),
        grid={"rates.prompt": (1e-3, 3e-3, 1e-2), "options.length": (20, 50, 100)},
        sources={"options.length": "ours: length is the cost", "decay.prompt": "ours: none"}
        | {"rates": "ours: 0.3 of the embeddings' size"}
        | dict.fromkeys(_THEIRS, SOURCE),
        notes=("Not run: it needs a GPU and the hub.",),
    )


TABLE = Table(
    "peft/gsm8k", "PEFT's comparison of methods: GSM8K after MetaMathQA", SOURCE, SETTING.backbone,
    (Column(TASK, "number_match", "gsm8k"),),
    (
        Line("full", "Full fine-tuning", None, {TASK: 47.2}, "3.2B"),
        Line("lora", "LoRA, rank 32", None, {TASK: 47.8}, "9.2M"),
        Line("prefix", "Prefix tuning, 50 from text", None, {TASK: 41.6}, "2.9M"),
        Line("p-tuning", "P-tuning, 20 rows", None, {TASK: 35.0}, "28.4M"),
        Line("default", "Prompt tuning, 200 rows, random, 1e-4", default, {TASK: 5.7}, "0.61M"),
        Line("noise", "Prompt tuning, 200 rows, random, 1e-3", noise, {TASK: 23.4}, "0.61M"),
        Line("vocabulary", "Prompt tuning, 200 rows, vocabulary, 1e-3", vocabulary, {TASK: 34.3}, "0.61M"),
        Line("ours", "Prompt tuning, 50 rows, vocabulary, no decay", ours, {}, ""),
    ),
    seeds=1, notes=("One seed there; its authors' repeats differ by about 3 points.",),
)  # fmt: skip
