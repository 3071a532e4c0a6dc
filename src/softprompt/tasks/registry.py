"""Tasks by name: those that are shipped or registered, and the published ones of the catalogue.

A task of another package is a function that returns a Task, or an Entry of the catalogue, given to `register_task`.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from softprompt.errors import BadInput, UnknownName
from softprompt.tasks.files import from_files, from_origin
from softprompt.tasks.published.catalogue import CATALOGUE, find, load_again, load_task, register_entry
from softprompt.tasks.published.entry import Entry
from softprompt.tasks.published.spec import as_limit, parse_spec
from softprompt.tasks.task import SPLITS, Split, Task


def support() -> Task:
    """Route a customer's message to one of six teams: 600 messages written for this package (CC0)."""
    folder = Path(__file__).parent / "samples" / "support"
    train, dev, test = (folder / f"{split}.jsonl" for split in SPLITS)
    # Template and words were chosen by zero-shot accuracy on train alone (results/support_words.md).
    words = {
        "billing": "payment", "delivery": "delivery", "returns": "return", "account": "password",
        "technical": "setup", "sales": "shopping",
    }  # fmt: skip
    template = "Message: {text}\nThis message is about"
    task = from_files(train, dev=dev, test=test, label="team", template=template, words=words)
    return replace(task, name="support", origin={"task": "support", "label": "team", "words": words})


TASKS: dict[str, Callable[[], Task]] = {"support": support}
"""Name -> what makes the task: those that are shipped or registered, not the published ones."""
PLUGINS = "softprompt.tasks"
"""Entry points of other packages that register tasks."""


def register_task(task: Callable[[], Task] | Entry) -> None:
    """Add a task: a function that returns it (its name is the task's), or an entry of a published one.

    The first line of the function's docstring is what `softprompt list tasks` says of it. Raises BadInput when the name
    is taken.
    """
    name = task.name if isinstance(task, Entry) else task.__name__
    if name in TASKS or name in CATALOGUE:
        raise BadInput(f"There is already a task named {name!r}; give yours another name.")
    if isinstance(task, Entry):
        register_entry(task)
    else:
        TASKS[name] = task


def load_task_plugins() -> None:
    """Load the tasks that other installed packages declare as entry points."""
    from softprompt.runtime.plugins import load_plugins

    load_plugins(PLUGINS)


def is_published(name: str) -> bool:
    """Return whether a task of this name comes from the catalogue: False for what is shipped or registered."""
    if name not in TASKS and name not in CATALOGUE:
        load_task_plugins()
    return name not in TASKS


def get_task(
    name: str,
    *,
    data_dir: str | Path | None = None,
    template: str | None = None,
    limit: int | Mapping[Split, int] | None = None,
    seed: int = 0,
    protocol: str = "fair",
    compat: bool = False,
    shots: int | None = None,
    draw: int = 0,
) -> Task:
    """Return a task by name: one that is shipped or registered, or a published one.

    Args:
        name: Name, or the last part of a published task's name ("rte").
        data_dir: Folder with the files of published tasks; None: they are read from the hub.
        template: "words" (natural language) or "paper" (numbers for classes); None: the protocol's own.
        limit: Maximum rows of each split, drawn with `seed`.
        seed: Random seed of the draws: dev from train, and those of `limit`.
        protocol: Which rows train, select and test: "fair", "paper:dept", "paper:peft" or "paper:superpos".
        compat: Keep the defects of the protocol's published code.
        shots: Train on this many examples of each class.
        draw: Index of the few-shot sample to train on.

    Raises:
        UnknownName: With a suggestion; for a published task also what `load_task` raises.
    """
    limits = as_limit(limit)
    if not is_published(name):
        if limits or (data_dir, template, protocol, compat, shots, draw) != (None, None, "fair", False, None, 0):
            raise BadInput(
                f"The task {name!r} is shipped; data_dir, template, limit, protocol and shots go with a published one."
            )
        task = TASKS[name]()
        return task if task.origin else replace(task, origin={"task": name})
    try:
        entry = find(name)
    except UnknownName:
        raise UnknownName("task", name, [*TASKS, *CATALOGUE], "Your own file is given with --data FILE.") from None
    spec = {
        "task": entry.name, "data_dir": None if data_dir is None else str(data_dir), "form": template, "limit": limits,
        "seed": seed, "protocol": protocol, "compat": compat, "shots": shots, "draw": draw,
    }  # fmt: skip
    return load_task(entry, parse_spec(spec))


def task_like(
    name: str,
    template: str,
    choices: tuple[str, ...],
    data_dir: str | Path | None = None,
    limit: Mapping[Split, int] | None = None,
) -> Task:
    """Read a published task with the template and answers of a run. Raises BadInput when it has others.

    Args:
        name: Name of the task.
        template: Template that the run was trained with.
        choices: Answers that it chooses among; none: free text.
        data_dir: Folder with the task's files; None: it is read from the hub.
        limit: Maximum rows by split.
    """
    entry = find(name)
    for form in ("words", "paper"):
        if (entry.form(form).template, entry.form(form).words) == (template, choices):
            return get_task(name, data_dir=data_dir, template=form, limit=limit)
    raise BadInput(
        f"{entry.name} asks {entry.words.template!r} for {', '.join(entry.words.words) or 'free text'}; the run was "
        f"tuned with {template!r} for {', '.join(choices) or 'free text'}. Evaluate it on a task that asks alike."
    )


def task_again(origin: Mapping[str, object]) -> Task:
    """Read again the task that a run.json recorded. Raises BadData when its data has changed."""
    if "task" not in origin:
        return from_origin(origin)
    name = str(origin["task"])
    return load_again(origin) if is_published(name) else get_task(name)
