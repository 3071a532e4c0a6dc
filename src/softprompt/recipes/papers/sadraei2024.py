"""SuperPos-Prompt: Sadraei Javaheri et al. 2024, "SuperPos-Prompt: Enhancing Soft Prompt Tuning of Language Models
with Superposition of Multi Token Embeddings", PMLR 262:34-46.

https://proceedings.mlr.press/v262/ali-sadraei-javaheri24a.html; no code is published.

The paper does not state batch size, source length, clipping, precision, seeds, templates, label words and the
initialization of p'. softprompt's defaults are used for them, and each recipe's notes say so.
"""

from collections.abc import Callable
from functools import partial

from softprompt.recipes.plan import Fields, Plan
from softprompt.recipes.recipe import Recipe
from softprompt.recipes.setting import Setting
from softprompt.recipes.tables import Column, Line, Table
from softprompt.tasks.published.spec import TaskSpec

SMALL, BASE, ORIGINAL = "google/t5-small-lm-adapt", "google/t5-base-lm-adapt", "google-t5/t5-base"
PAIRS = {
    "glue/qqp": "accuracy+f1", "glue/stsb": "pearson+spearman", "glue/mrpc": "accuracy+f1", "glue/cola": "matthews",
    "superglue/multirc": "f1+question_em", "superglue/cb": "macro_f1+accuracy",
}  # fmt: skip
TASKS = (
    "glue/qqp", "glue/qnli", "glue/mnli", "glue/sst2", "glue/stsb", "glue/mrpc", "glue/cola", "superglue/multirc",
    "glue/rte", "superglue/cb", "superglue/copa", "superglue/wic", "superglue/boolq",
)  # fmt: skip
TARGETS = TASKS[4:]
"""The tasks that ATTEMPT was run on: its source tasks are the first four."""
COMMON: Fields = {
    "epochs": 80,  # sections 3.1 to 3.4, as all of this but the batch
    "schedule": "constant",
    "warmup": 0,
    "evaluate_every": "epoch",  # figure 2; the best epoch is reported
    "dev_limit": None,
    "batch": 32,  # not stated; ours
}
SOURCES = {
    "task.protocol": "sections 3.1 to 3.4: validation is reported at its best epoch; text is generated freely",
    "options.length": "sections 3.1 to 3.4: 10 rows",
    "epochs": "sections 3.1 to 3.4",
    "schedule": "sections 3.1 to 3.4: no learning rate scheduler",
    "warmup": "sections 3.1 to 3.4: no learning rate scheduler",
    "evaluate_every": "figure 2: scores by epoch",
    "batch": "not stated; ours",
    "setting.backbone": "sections 3.1 to 3.4: T5 v1.1, LM-adapted; the original T5 in table 3",
    "setting.dtype": "not stated; ours",
    "setting.max_source": "not stated; ours",
    "dev_limit": "not stated; the whole validation set is what is reported",
    "clip": "not stated; our default",
}
SILENT = ("Batch, source length, clipping, templates and label words are not in the paper; these are ours.",)


def superpos(task: str, *, backbone: str = BASE, dropout: bool = False) -> Plan:
    """Make the plan of SuperPos-Prompt, without dropout in the frozen network (its second contribution) or with it."""
    return _plan(
        "superpos", task, backbone, dropout,
        Recipe(
            method="superpos",
            options={"length": 10, "sampled": 128},  # figure 2(c) for 128
            rates={"weights": 0.01, "codebook": 0.01},  # one rate for all
            decay={"weights": 1e-5},  # section 2: on p' alone
            **COMMON,
        ),
        {"options.sampled": "figure 2(c)", "rates.weights": "sections 3.1 to 3.4",
         "rates.codebook": "sections 3.1 to 3.4: one rate for all", "decay.weights": "section 2: not on E"},
        ("How p' starts is not in the paper; ours is normal with variance 1/128 (docs/methods.md).",),
    )  # fmt: skip


def simple(task: str, *, backbone: str = BASE, dropout: bool = False) -> Plan:
    """Make the plan of the baseline "Simple PT". Its rate of 0.01 is a thirtieth of Lester et al.'s."""
    return _plan(
        "superpos-simple", task, backbone, dropout,
        Recipe(
            method="prompt_tuning",
            options={"length": 10, "start": "vocabulary", "pool": None},  # 10 unique token embeddings
            rates={"prompt": 0.01},
            decay={"prompt": 0.01},
            **COMMON,
        ),
        dict.fromkeys(("options.start", "rates.prompt", "decay.prompt"), "sections 3.1 to 3.4")
        | {"options.pool": "sections 3.1 to 3.4 say unique token embeddings, not of which; ours: of all"},
        ("Lester et al. 2021 use 0.3; read this baseline with that in mind.",),
    )  # fmt: skip


def residual(task: str, *, backbone: str = BASE, dropout: bool = False) -> Plan:
    """Make the plan of the baseline "Residual PT", over which the paper's +6.4 (small) and +5.0 (base) are gained."""
    return _plan(
        "superpos-residual", task, backbone, dropout,
        Recipe(
            method="residual",
            options={"length": 10, "start": "vocabulary", "pool": None, "bottleneck": 128, "gain": 1.0},
            rates={"prompt": 0.3, "network": 0.3, "norm": 0.3},
            decay={"prompt": 0.01, "network": 0.01, "norm": 0.01},
            **COMMON,
        ),
        dict.fromkeys(
            ("options.start", "options.bottleneck", *(f"{what}.{group}" for what in ("rates", "decay")
                                                      for group in ("prompt", "network", "norm"))),
            "sections 3.1 to 3.4",
        )
        | {"options.pool": "sections 3.1 to 3.4 say unique token embeddings, not of which; ours: of all"}
        | {"options.gain": "not stated; 1 is Residual Prompt Tuning's own"},
        (),
    )  # fmt: skip


def attempt(task: str, *, backbone: str = BASE, dropout: bool = False) -> Plan:
    """Make the plan of the baseline ATTEMPT, which mixes prompts that are trained first, on its four source tasks.

    Those runs are named with `--set sources=RUN,RUN,RUN,RUN`; without them the plan cannot be run.
    """
    return _plan(
        "superpos-attempt", task, backbone, dropout,
        Recipe(
            method="attempt",
            options={"length": 10, "start": "vocabulary", "pool": None, "width": 100},
            rates={"prompt": 0.3, "attention": 0.3},
            decay={"prompt": 1e-5, "attention": 1e-5},
            **COMMON,
        ),
        dict.fromkeys(("options.start", "options.width", *(f"{what}.{group}" for what in ("rates", "decay")
                                                           for group in ("prompt", "attention"))),
                      "sections 3.1 to 3.4")
        | {"options.pool": "sections 3.1 to 3.4 say unique token embeddings, not of which; ours: of all"},
        ("How the prompts of the source tasks (QQP, QNLI, MNLI, SST-2) are trained is not in the paper. The recipes "
         "superpos-simple/* train such prompts of 10 rows; --set sources=RUN,... names the finished runs.",),
    )  # fmt: skip


def _plan(
    family: str,
    task: str,
    backbone: str,
    dropout: bool,
    recipe: Recipe,
    sources: dict[str, str],
    notes: tuple[str, ...],
) -> Plan:
    return Plan(
        name=f"{family}{'-dropout' if dropout else ''}/{task.replace('/', '-')}",
        task=TaskSpec(task=task, protocol="paper:superpos"),
        setting=Setting(
            backbone=backbone, dtype="float32", max_source=512 if task == "superglue/multirc" else 256, dropout=dropout
        ),
        recipe=recipe,
        sources={**SOURCES, **sources, "setting.dropout": "section 2: none in the frozen network; both in table 1"},
        notes=(*notes, *SILENT),
    )


def _line(
    name: str, title: str, make: Callable[..., Plan] | None, backbone: str, *scores: float | str, dropout: bool = False
) -> Line:
    plan = partial(make, backbone=backbone, dropout=dropout) if make else None
    published = {task: score for task, score in zip(TASKS, scores, strict=True) if score != "-"}
    mixes = make is attempt
    return Line(name, title, plan, published, needs="sources" if mixes else "", tasks=TARGETS if mixes else ())


_COLUMNS = tuple(Column(task, PAIRS.get(task, "accuracy"), task.split("/")[1]) for task in TASKS)
_NOTES = (
    "† the run gave answers outside the labels and counts as 0. Pairs: F1/accuracy, Pearson/Spearman, F1a/EM; our cell "
    "is the mean of the pair.",
    "The best epoch on the validation set is the score: there is no test.",
    "ATTEMPT mixes prompts that are trained on its source tasks first (QQP, QNLI, MNLI, SST-2), so it has no cell there"
    " and is run where those runs are named: `--lines attempt --set sources=RUN,RUN,RUN,RUN`.",
)
TABLE_1_SMALL = Table(
    "superpos/table1-small", "SuperPos-Prompt, table 1: T5 v1.1 small LM-adapted",
    "Sadraei et al. 2024, table 1", SMALL, _COLUMNS,
    (
        _line("simple-dropout", "Simple PT, dropout", simple, SMALL, "58.2/65.5", 50.6, 33.2, 79.4, "9.8/7.9",
              "81.2/68.4", "0†", "17.3/0.3", 52.3, "0†", "0†", 50.6, 62.2, dropout=True),
        _line("simple", "Simple PT", simple, SMALL, "70.8/75.3", 72.8, 50.7, 84.9, "0†", "82.5/71.3", "0†", "22.6/0.6",
              49.1, "0†", "0†", 57.4, 62.6),
        _line("attempt-dropout", "ATTEMPT, dropout", attempt, SMALL, "-", "-", "-", "-", "0†", "0†", "0†", "0†", 52.0,
              "0†", 58.0, "0†", "0†", dropout=True),
        _line("attempt", "ATTEMPT", attempt, SMALL, "-", "-", "-", "-", "83.3/83.2", "0†", "0†", "0†", 59.9, "0†", 57.0,
              64.3, "0†"),
        _line("residual-dropout", "Residual PT, dropout", residual, SMALL, "70.6/74.9", 61.8, 34.6, 82.8, "69.7/72.4",
              "81.9/71.1", 0.5, "59.9/0.8", 52.7, "49.6/71.4", 56.0, 52.4, 62.3, dropout=True),
        _line("residual", "Residual PT", residual, SMALL, "73.3/78.2", 79.2, 60.7, 85.1, "80.8/80.6", "88.3/83.3", 20.6,
              "59.8/4.4", 59.6, "68.6/73.2", 56.0, 58.2, 64.7),
        _line("superpos-dropout", "SuperPos-Prompt, dropout", superpos, SMALL, "74.4/79.9", 82.9, 66.7, 88.8,
              "82.9/82.8", "88.4/82.6", 23.4, "59.9/0.8", 58.5, "39.6/60.7", 56.0, 58.6, 62.4, dropout=True),
        _line("superpos", "SuperPos-Prompt", superpos, SMALL, "79.1/83.3", 85.3, 71.7, 89.8, "84.0/84.0", "89.9/85.8",
              38.9, "66.6/16.7", 64.6, "73.6/76.8", 58.0, 65.7, 68.9),
        _line("fine-tuning", "Fine-tuning", None, SMALL, "87.4/90.5", 89.5, 82.9, 92.1, "85.8/85.5", "89.6/84.8", 42.0,
              "68.5/19.3", 66.1, "47.9/69.6", 57.0, 66.5, 71.1),
    ),
    seeds=1, notes=_NOTES,
)  # fmt: skip
TABLE_1_BASE = Table(
    "superpos/table1-base", "SuperPos-Prompt, table 1: T5 v1.1 base LM-adapted",
    "Sadraei et al. 2024, table 1", BASE, _COLUMNS,
    (
        _line("simple-dropout", "Simple PT, dropout", simple, BASE, "54.3/38.2", 50.5, 34.8, 85.0, "0†", "81.2/68.4",
              "0†", "2.5/0.3", 53.1, "0†", "0†", 50.6, 62.6, dropout=True),
        _line("simple", "Simple PT", simple, BASE, "0†", 76.9, "0†", 92.2, "0†", "82.0/70.6", 24.8, "55.6/2.1", 53.4,
              "0†", 59.0, 57.7, "0†"),
        _line("attempt-dropout", "ATTEMPT, dropout", attempt, BASE, "-", "-", "-", "-", "0†", "0†", 44.6, "0†", 56.0,
              "0†", 55.0, "0†", "0†", dropout=True),
        _line("attempt", "ATTEMPT", attempt, BASE, "-", "-", "-", "-", "0†", "0†", 53.7, "67.5/17.8", 56.0, "0†", "0†",
              69.0, 70.1),
        _line("residual-dropout", "Residual PT, dropout", residual, BASE, "72.1/75.0", 58.0, 34.8, 91.3, "81.6/81.7",
              "82.0/70.3", "0†", "59.9/0.8", 52.7, "43.6/64.3", 58.0, 54.2, 62.8, dropout=True),
        _line("residual", "Residual PT", residual, BASE, "76.1/81.4", 83.3, 70.7, 92.7, "86.2/86.1", "87.4/82.8", 44.7,
              "63.9/11.3", 70.0, "82.6/80.4", 60.0, 64.3, 65.3),
        _line("superpos-dropout", "SuperPos-Prompt, dropout", superpos, BASE, "79.0/83.1", 79.2, 76.5, 94.0,
              "86.2/86.6", "89.1/83.6", 45.4, "68.7/18.2", 57.4, "44.8/66.1", 58.0, 58.3, 62.3, dropout=True),
        _line("superpos", "SuperPos-Prompt", superpos, BASE, "81.9/86.3", 89.8, 81.0, 94.2, "88.6/88.5", "89.7/85.5",
              56.5, "72.9/24.9", 70.4, "78.3/82.1", 62.0, 67.6, 74.0),
        _line("fine-tuning", "Fine-tuning", None, BASE, "88.3/91.1", 92.7, 88.1, 94.8, "90.1/89.8", "91.9/88.2", 53.0,
              "76.2/35.3", 72.9, "53.5/76.8", 57.0, 69.3, 78.9),
    ),
    seeds=1, notes=_NOTES,
)  # fmt: skip
TABLE_3 = Table(
    "superpos/table3", "SuperPos-Prompt, table 3: the original T5-base", "Sadraei et al. 2024, table 3", ORIGINAL,
    _COLUMNS,
    (
        _line("superpos", "SuperPos-Prompt", superpos, ORIGINAL, "87.8/90.8", 93.5, 86.0, 94.4, "90.2/90.1",
              "92.4/89.5", 59.7, "77.7/40.9", 80.1, "97.4/96.4", 66.0, 67.6, 81.3),
    ),
    seeds=1, notes=_NOTES,
)  # fmt: skip
