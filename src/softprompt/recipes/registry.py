"""Recipes and tables by name."""

from collections.abc import Callable
from functools import partial

from softprompt.errors import UnknownName
from softprompt.recipes.papers import lester2021, metamath, ours, sadraei2024, shi2024, siblings
from softprompt.recipes.plan import Plan
from softprompt.recipes.tables import Table

FAMILIES: dict[str, tuple[Callable[[str], Plan], tuple[str, ...]]] = {
    "dept": (shi2024.released, tuple(shi2024.RELEASED)),
    "dept-appendix": (shi2024.appendix, shi2024.TASKS),
    "dept-prompt-tuning": (shi2024.prompt_tuning, shi2024.TASKS),
    **{f"dept-fewshot-{k}": (partial(shi2024.fewshot, k=k), shi2024.FEW) for k in (4, 16, 32)},
    "superpos": (sadraei2024.superpos, sadraei2024.TASKS),
    "superpos-dropout": (partial(sadraei2024.superpos, dropout=True), sadraei2024.TASKS),
    "superpos-simple": (sadraei2024.simple, sadraei2024.TASKS),
    "superpos-simple-dropout": (partial(sadraei2024.simple, dropout=True), sadraei2024.TASKS),
    "superpos-residual": (sadraei2024.residual, sadraei2024.TASKS),
    "superpos-residual-dropout": (partial(sadraei2024.residual, dropout=True), sadraei2024.TASKS),
    "superpos-attempt": (sadraei2024.attempt, sadraei2024.TARGETS),
    "superpos-attempt-dropout": (partial(sadraei2024.attempt, dropout=True), sadraei2024.TARGETS),
    "lester": (lester2021.prompt_tuning, lester2021.TASKS),
    "peft-default": (metamath.default, (metamath.TASK,)),
    "peft-noise": (metamath.noise, (metamath.TASK,)),
    "peft-vocabulary": (metamath.vocabulary, (metamath.TASK,)),
    **{method: (partial(siblings.sibling, method=method), siblings.TASKS) for method in siblings.RECIPES},
    "ours": (metamath.ours, (metamath.TASK,)),
    **{f"fair-{method}": (partial(ours.fair, method=method), ours.TASKS) for method in ours.OPTIONS},
}
"""First part of a recipe's name -> the function that makes it for a task, and for which tasks."""

RECIPES: dict[str, Callable[[], Plan]] = {
    f"{family}/{task.replace('/', '-')}": partial(make, task)
    for family, (make, tasks) in FAMILIES.items()
    for task in tasks
}
TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        shi2024.TABLE_1, shi2024.TABLE_2, shi2024.FEW_SHOT, sadraei2024.TABLE_1_SMALL, sadraei2024.TABLE_1_BASE,
        sadraei2024.TABLE_3, metamath.TABLE, ours.TABLE,
    )
}  # fmt: skip


def get_recipe(name: str) -> Plan:
    """Return a recipe by name, such as `dept/glue-rte`. Raises UnknownName."""
    if name not in RECIPES:
        raise UnknownName("recipe", name, RECIPES, "`softprompt list recipes` shows them.")
    return RECIPES[name]()


def get_table(name: str) -> Table:
    """Return a table by name. Raises UnknownName."""
    if name not in TABLES:
        raise UnknownName("table", name, TABLES)
    return TABLES[name]
