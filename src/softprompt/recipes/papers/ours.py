"""The table of softprompt itself: four methods with the protocol fair, default rates and budgets.

Rates are multiples of the size of the backbone's embeddings (softprompt.methods.options.Rate), chosen on other
tasks (results/README.md, "Learning rates"). Ten rows for every method, as in SuperPos-Prompt's tables.
"""

from functools import partial

from softprompt.recipes.plan import Fields, Plan
from softprompt.recipes.recipe import Recipe
from softprompt.recipes.setting import Setting
from softprompt.recipes.tables import Column, Line, Table
from softprompt.tasks.published.catalogue import find
from softprompt.tasks.published.spec import TaskSpec

OPTIONS: dict[str, Fields] = {
    "prompt_tuning": {"length": 10},
    "dept": {"length": 10, "rank": 10},
    "superpos": {"length": 10},
    "superpos_dept": {"length": 10, "rank": 10},
}
TASKS = (
    "glue/sst2", "glue/cola", "glue/mrpc", "glue/stsb", "glue/rte", "glue/qnli", "glue/qqp", "glue/mnli",
    "superglue/cb", "superglue/boolq", "superglue/multirc", "superglue/wic", "superglue/copa",
)  # fmt: skip


def fair(task: str, method: str) -> Plan:
    """Make a plan of 300 steps of 16 examples, evaluated every 50: minutes on a CPU with a small model."""
    return Plan(
        task=TaskSpec(task=task),
        setting=Setting(max_source=128),
        recipe=Recipe(method=method, options=OPTIONS[method]),
        name=f"fair-{method}/{task.replace('/', '-')}",
    )


TABLE = Table(
    "fair", "Four methods under the protocol fair", "ours", "smollm2-135m",
    tuple(Column(task, find(task).metric_names(find(task).words)[0], task.split("/")[1]) for task in TASKS),
    tuple(Line(method, method, partial(fair, method=method)) for method in OPTIONS), seeds=3,
)  # fmt: skip
