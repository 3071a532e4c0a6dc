"""DePT: Shi & Lipani 2024, "DePT: Decomposed Prompt Tuning for Parameter-Efficient Fine-tuning", ICLR.

https://arxiv.org/abs/2309.05173; code and runs: https://github.com/ZhengxiangShi/DePT

Two sets of numbers exist and disagree. `released` is what the authors' published runs used (the folders
checkpoints/TASK of their repository: adapter_config.json, trainer_state.json, output.log); those runs' test scores are
the paper's, to the decimal. `appendix` is the paper's own list of hyperparameters, at second hand:
ACCEPT (Lin et al. 2024), which follows DePT, says 30,000 and 300,000 steps, a warm-up of 6 % and weight decay 0.01.
"""

from dataclasses import dataclass
from functools import partial

from softprompt.errors import UnknownName
from softprompt.recipes.plan import Fields, Plan
from softprompt.recipes.recipe import Recipe
from softprompt.recipes.setting import Setting
from softprompt.recipes.tables import Column, Line, Table
from softprompt.tasks.published.spec import TaskSpec

CODE = "github.com/ZhengxiangShi/DePT"
BACKBONE = "google-t5/t5-base"  # checkpoints/*/README.md
START = "Classify this text is postive or not:</s>"
"""train.py: the text, misspelled, of every released adapter_config.json; tokenized there with T5's end of sequence."""
GRID: dict[str, tuple[float, ...]] = {
    "rates.prompt": (0.3, 0.4, 0.5),  # README, "--learning_rate"; 0.5 in ACCEPT's scripts, which follow the paper
    "rates.offset": (1e-4, 5e-4, 1e-3, 5e-3),  # released runs and README, "--lora_embedding_lr"
}
LARGE = 100_000
"""README, "Limitations": tasks with more training examples ran up to 300,000 steps."""


@dataclass(frozen=True)
class Released:
    """One folder of checkpoints/: m, r, s, both rates, steps."""

    length: int
    rank: int
    max_source: int
    prompt: float
    offset: float
    steps: int
    folder: str


RELEASED = {
    "glue/mnli": Released(60, 30, 256, 0.3, 1e-4, 250_000, "mnli"),
    "glue/qqp": Released(60, 30, 256, 0.4, 5e-3, 100_000, "qqp"),
    "glue/qnli": Released(60, 30, 256, 0.4, 5e-3, 100_000, "qnli"),
    "glue/sst2": Released(60, 30, 256, 0.3, 5e-4, 30_000, "sst2"),
    "glue/stsb": Released(60, 30, 256, 0.3, 1e-4, 30_000, "stsb"),
    "glue/mrpc": Released(60, 30, 256, 0.3, 5e-3, 10_000, "mrpc"),
    "glue/rte": Released(60, 30, 256, 0.4, 1e-4, 30_000, "rte"),
    "glue/cola": Released(80, 15, 256, 0.3, 5e-4, 40_000, "cola"),
    "superglue/boolq": Released(40, 45, 256, 0.3, 5e-3, 30_000, "superglue-boolq"),
    "superglue/cb": Released(60, 30, 256, 0.4, 1e-4, 30_000, "superglue-cb"),
    "superglue/multirc": Released(60, 30, 348, 0.3, 5e-3, 30_000, "superglue-multirc"),
    "superglue/wic": Released(60, 30, 256, 0.3, 1e-3, 20_000, "superglue-wic"),
    "superglue/wsc": Released(60, 30, 256, 0.3, 1e-4, 20_000, "superglue-wsc.fixed"),
    "mrqa/nq": Released(60, 24, 512, 0.3, 1e-4, 300_000, "nq"),
    "mrqa/hotpotqa": Released(60, 24, 512, 0.4, 1e-4, 250_000, "hotpotqa"),
    "mrqa/searchqa": Released(60, 24, 512, 0.3, 1e-4, 250_000, "searchqa"),
    "mrqa/newsqa": Released(60, 24, 512, 0.4, 1e-4, 200_000, "newsqa"),
}
TRAIN_ROWS = {
    "others/winogrande": 39_398, "others/yelp": 100_000, "others/scitail": 23_596, "others/paws": 49_401,
}  # fmt: skip  # after dev is taken off; ULPT (Wu et al. 2025), table 4
TASKS = (*RELEASED, *TRAIN_ROWS)
COMMON: Fields = {
    "batch": 32,  # every output.log; MRQA as 16 x 2
    "warmup": 500,  # README and trainer_state.json: the rate peaks at step 500
    "schedule": "linear",  # trainer_state.json: 0 at the last step
    "clip": 1.0,  # output.log, max_grad_norm
    "epsilon": 1e-6,  # transformers 4.26.1's AdamW; adam_epsilon=1e-8 in the log is not passed on
    "evaluate_every": 1000,  # trainer_state.json
    "dev_limit": None,  # the whole of their dev
    "seed": 42,  # output.log
}
SOURCES = {
    "task.protocol": f"{CODE}, src/tasks.py: splits of seed 42, digits as targets",
    "setting.backbone": f"{CODE}, checkpoints/*/README.md",
    "setting.dtype": "not stated; ours",
    "setting.max_source": f"{CODE}, README (--max_length 256) and the released runs (348 for MultiRC, 512 for MRQA)",
    "setting.dropout": f"{CODE}, train.py: the Trainer leaves the backbone in training mode, dropout 0.1",
    "options.start": f"{CODE}, adapter_config.json of every released run",
    "options.start_text": f"{CODE}, adapter_config.json of every released run, misspelled there",
    "options.alpha": f"{CODE}, peft/tuners/prompt_tuning_lora.py: lora_alpha 8, A B times 8 / sqrt(r)",
    "batch": f"{CODE}, checkpoints/*/output.log (MRQA: 16 x 2)",
    "warmup": f"{CODE}, README and trainer_state.json",
    "schedule": f"{CODE}, trainer_state.json",
    "clip": f"{CODE}, output.log (max_grad_norm, over both groups together)",
    "epsilon": "transformers 4.26.1, AdamW's own default; the flag in the log is not passed on",
    "decay": "transformers 4.26.1, AdamW's own default 0; --weight_decay 1e-5 is not passed on",
    "evaluate_every": f"{CODE}, trainer_state.json",
    "dev_limit": f"{CODE}, output.log: every evaluation is on the whole of dev",
    "seed": f"{CODE}, output.log",
}
DISAGREE = (
    "The authors' command says --weight_decay 1e-5 and adam_epsilon 1e-8; their code applies neither.",
    "The paper's formula has no scale on A B; the code multiplies it with 8 / sqrt(r), and so do we.",
)


def released(task: str) -> Plan:
    """Make the plan of a released run, from its folder. Raises UnknownName for a task without one."""
    if task not in RELEASED:
        raise UnknownName("released run of DePT", task, RELEASED, "The others are in dept-appendix.")
    run = RELEASED[task]
    longer = ("With s = 348 these are 79,560 trained values on T5-base, not 76,800.",) if run.max_source == 348 else ()
    own = ("options.length", "options.rank", "setting.max_source", "rates.prompt", "rates.offset", "steps")
    return Plan(
        name=f"dept/{task.replace('/', '-')}",
        task=TaskSpec(task=task, protocol="paper:dept"),
        setting=Setting(backbone=BACKBONE, dtype="float32", max_source=run.max_source, dropout=True),
        recipe=Recipe(
            method="dept",
            options={"length": run.length, "rank": run.rank, "alpha": 8.0, "start": "text", "start_text": START},
            rates={"prompt": run.prompt, "offset": run.offset},
            steps=run.steps,
            **COMMON,
        ),
        grid=GRID,
        sources=SOURCES | dict.fromkeys(own, f"{CODE}, checkpoints/{run.folder}"),
        notes=(*DISAGREE, *longer),
    )


def appendix(task: str) -> Plan:
    """Make the plan of the paper's appendix, at second hand (see the module's docstring).

    Tasks without a released run have the middle of the published lengths: m = 60.
    """
    if task not in TASKS:
        raise UnknownName("task of DePT", task, TASKS)
    run = RELEASED.get(task, Released(60, 30, 256, 0.3, 5e-4, 30_000, ""))
    large = task in ("glue/mnli", "glue/qqp", "glue/qnli") or task.startswith("mrqa/") or task == "others/yelp"
    second_hand = "ACCEPT (Lin et al. 2024), README and examples/*.sh, following DePT; not checked against the paper"
    return Plan(
        name=f"dept-appendix/{task.replace('/', '-')}",
        task=TaskSpec(task=task, protocol="paper:dept"),
        setting=Setting(backbone=BACKBONE, dtype="float32", max_source=run.max_source, dropout=True),
        recipe=Recipe(
            method="dept",
            options={"length": run.length, "rank": run.rank, "alpha": 8.0, "start": "text", "start_text": START},
            rates={"prompt": 0.3, "offset": 5e-4},  # the middle of the grid
            decay={"prompt": 0.01, "offset": 0.01},
            steps=300_000 if large else 30_000,
            **COMMON | {"batch": 16, "warmup": None},  # null: 6 %
        ),
        grid=GRID,
        sources=SOURCES
        | dict.fromkeys(("rates.prompt", "rates.offset", "decay", "steps", "warmup"), second_hand)
        | {"batch": "ULPT (Wu et al. 2025), which says it follows DePT; the released runs have 32"}
        | {
            "options.length": f"{CODE}, README: 40 or 60 'should be fine'",
            "options.rank": "so that the values trained are those of 100 rows",
        },
        notes=DISAGREE,
    )


def prompt_tuning(task: str) -> Plan:
    """Make the plan of the baseline of equal size: 100 rows (76,800 values on T5-base), the rest as `released`."""
    run = RELEASED.get(task, Released(60, 30, 256, 0.3, 5e-4, 30_000, ""))
    return Plan(
        name=f"dept-prompt-tuning/{task.replace('/', '-')}",
        task=TaskSpec(task=task, protocol="paper:dept"),
        setting=Setting(backbone=BACKBONE, dtype="float32", max_source=run.max_source, dropout=True),
        recipe=Recipe(
            method="prompt_tuning",
            options={"length": 100, "start": "text", "start_text": START},
            rates={"prompt": 0.3},
            steps=run.steps,
            **COMMON,
        ),
        grid={"rates.prompt": GRID["rates.prompt"]},
        sources={name: source for name, source in SOURCES.items() if name != "options.alpha"}
        | {"options.length": "table 1 (76.8K values)", "rates.prompt": f"{CODE}, README (0.3 or 0.4)"}
        | {"steps": "as DePT's run on the task: the baseline's own are not published"},
        notes=("The baseline's runs are not released; steps and rate are DePT's.",),
    )


def fewshot(task: str, k: int) -> Plan:
    """Make the plan of the few-shot setting: k examples in all, from a source task's prompt and offset.

    Source tasks: MNLI, QQP, SST-2, SQuAD, ReCoRD. Give the finished source run with --start-from.
    """
    plan = released(task) if task in RELEASED else appendix(task)
    return plan.model_copy(
        update={
            "name": f"dept-fewshot-{k}/{task.replace('/', '-')}",
            "task": plan.task.model_copy(update={"shots": k}),
            "recipe": plan.recipe.model_copy(update={"steps": 1000, "evaluate_every": 100, "warmup": 50}),
            "sources": {
                **plan.sources,
                "steps": "ours; not stated",
                "warmup": "ours; not stated",
                "evaluate_every": "ours; not stated",
                "task.shots": "the few-shot experiments: k = 4, 16, 32, three draws",
            },
            "notes": (
                *plan.notes,
                "The prompt and the offset start from a run on MNLI, QQP, SST-2, SQuAD or ReCoRD: --start-from RUN.",
                "The whole dev half selects the checkpoint, as in their code: not a true few-shot protocol.",
                "Their draws are not balanced (k = 4 can be 1 and 3); ours are as equal as k allows.",
            ),
        }
    )


GLUE = tuple(f"glue/{name}" for name in ("mnli", "qqp", "qnli", "sst2", "stsb", "mrpc", "rte", "cola"))
SUPERGLUE = tuple(f"superglue/{name}" for name in ("multirc", "boolq", "wic", "wsc", "cb"))
MRQA = tuple(f"mrqa/{name}" for name in ("nq", "hotpotqa", "searchqa", "newsqa"))
OTHERS = tuple(f"others/{name}" for name in ("winogrande", "yelp", "scitail", "paws"))
METRICS = {"glue/stsb": "pearson", "glue/cola": "matthews", "superglue/multirc": "f1"} | dict.fromkeys(MRQA, "token_f1")


def _columns(tasks: tuple[str, ...]) -> tuple[Column, ...]:
    return tuple(Column(task, METRICS.get(task, "accuracy"), task.split("/")[1]) for task in tasks)


def _scores(tasks: tuple[str, ...], *scores: float | str) -> dict[str, float | str]:
    return dict(zip(tasks, scores, strict=True))


def _plan(task: str) -> Plan:
    return released(task) if task in RELEASED else appendix(task)


_BOTH = (*GLUE, *SUPERGLUE)
TABLE_1 = Table(
    "dept/table1",
    "DePT, table 1: GLUE and SuperGLUE",
    "Shi & Lipani 2024, table 1, as ULPT (Wu et al. 2025), table 1, and ACCEPT (Lin et al. 2024) repeat it; "
    f"DePT's line also in {CODE}, checkpoints/*/all_results.json",
    BACKBONE,
    _columns(_BOTH),
    (
        Line("fine-tuning", "Fine-tuning", None, _scores(
            _BOTH, 86.8, 91.6, 93.0, 94.6, 89.7, 90.2, 71.9, 61.8, 72.8, 81.1, 70.2, 59.6, 85.7), "220M"),
        Line("lora", "LoRA", None, _scores(
            _BOTH, 86.3, 89.0, 93.2, 94.3, 90.9, 90.1, 75.5, 63.3, 72.6, 81.3, 68.3, 67.3, 92.9), "3.8M"),
        Line("attempt", "ATTEMPT", None, _scores(
            _BOTH, 84.3, 90.3, 93.0, 93.2, 89.7, 85.7, 73.4, 57.4, 74.4, 78.8, 66.8, 53.8, 78.6), "232K"),
        Line("mpt", "MPT", None, _scores(
            _BOTH, 85.9, 90.3, 93.1, 93.8, 90.4, 89.1, 79.4, 62.4, 74.8, 79.6, 69.0, 67.3, 79.8), "77.6K"),
        Line("prompt-tuning-again", "Prompt tuning, run again by ULPT", None, _scores(
            _BOTH, 84.6, 90.2, 93.3, 94.4, 90.5, 88.7, 77.7, 59.5, 72.3, 80.4, 67.7, 67.3, 78.6), "76.8K"),
        Line("prompt-tuning", "Prompt tuning", prompt_tuning, _scores(
            _BOTH, 83.4, 90.2, 93.1, 91.9, 90.2, 90.1, 78.8, 60.7, 65.7, 63.7, 50.8, 51.9, 67.9), "76.8K"),
        Line("dept", "DePT", _plan, _scores(
            _BOTH, 85.0, 90.4, 93.2, 94.2, 90.8, 90.7, 79.1, 63.8, 74.3, 79.3, 68.7, 67.3, 92.9), "76.8K"),
    ),
    seeds=1,
    notes=(
        "One seed (42) in the paper. WSC's 67.3 is the constant answer: 35 of 52.",
        "Lines other than DePT and prompt tuning are themselves quoted in the paper.",
    ),
)  # fmt: skip
_REST = (*MRQA, *OTHERS)
TABLE_2 = Table(
    "dept/table2",
    "DePT, table 2: MRQA and others",
    "Shi & Lipani 2024, table 2, as ULPT (Wu et al. 2025), table 5, repeats it",
    BACKBONE,
    _columns(_REST),
    (
        Line("fine-tuning", "Fine-tuning", None, _scores(
            _REST, 75.1, 77.5, 81.1, 65.2, 61.9, 96.7, 95.8, 94.1), "220M"),
        Line("lora", "LoRA", None, _scores(_REST, 72.4, 62.3, 72.5, 56.9, 58.2, 97.1, 94.7, 94.0), "3.8M"),
        Line("mpt", "MPT", None, _scores(
            _REST, "72.0±.1", "75.8±.1", "77.2±.1", "63.7±.1", "56.5±.9", "96.4±.0", "95.5±.3", "93.5±.1"), "77.6K"),
        Line("prompt-tuning", "Prompt tuning (published: run again by ULPT)", prompt_tuning, _scores(
            _REST, 70.0, 74.7, 75.3, 63.0, 49.6, 95.6, 92.0, 57.9), "76.8K"),
        Line("dept", "DePT", _plan, _scores(
            _REST, "73.2±.3", "76.0±.2", "77.6±.2", "64.4±.1", "59.0±.2", "96.8±.1", "95.6±.2", "93.7±.1"), "76.8K"),
    ),
    seeds=3,
    notes=("WinoGrande's published scores are of a code that shows option 1 twice (--compat does so too).",),
)  # fmt: skip
FEW = ("superglue/boolq", "superglue/cb", "others/scitail")
FEW_SHOT = Table(
    "dept/fewshot",
    "DePT, few-shot: k examples, from a source task's run",
    "Shi & Lipani 2024, few-shot experiments; at second hand, not checked against the paper",
    BACKBONE,
    _columns(FEW),
    (
        Line("k4", "DePT, k = 4", partial(fewshot, k=4), _scores(FEW, "62.7±5.4", "75.0±5.1", "78.1±2.5"), "76.8K"),
        Line("k16", "DePT, k = 16", partial(fewshot, k=16), _scores(FEW, "66.9±4.4", "78.6±4.3", "78.5±1.4"), "76.8K"),
        Line("k32", "DePT, k = 32", partial(fewshot, k=32), _scores(FEW, "67.2±3.4", "82.1±2.3", "85.4±3.1"), "76.8K"),
    ),
    seeds=3,
    notes=("Give the source run with --start-from; without it this is few-shot from DePT's own start.",),
)  # fmt: skip
