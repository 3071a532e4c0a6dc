"""TODO."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from softprompt.errors import BadInput, UnknownName
from softprompt.tasks.files import from_files, from_origin
from softprompt.tasks.published.catalogue import CATALOGUE, find, load_again, load_task
from softprompt.tasks.published.spec import TaskSpec, as_limit, parse_spec
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
    """A task by name: a shipped one, or a published one from the hub or from files in `data_dir`.

    `protocol` ("fair", "paper:dept", "paper:superpos") says which rows train, select and test; `compat` leaves in
    the defects of its published code. `template` is "words" (natural language) or "paper" (numbers for classes),
    by default the protocol's; `limit` the most rows of each split, drawn with `seed`. `shots` trains on that
    many examples of each class, the `draw`-th draw of them. Raises UnknownName, with a suggestion; for a
    published task what `load_task` raises.
    """
    given: dict[str, Any] = {
        "data_dir": None if data_dir is None else str(data_dir), "form": template, "limit": as_limit(limit),
        "protocol": protocol, "compat": compat, "shots": shots, "draw": draw,
    }  # fmt: skip
    if name in TASKS:
        if any(
            value != TaskSpec.model_fields[key].get_default(call_default_factory=True) for key, value in given.items()
        ):
            raise BadInput(
                f"The task {name!r} is shipped; data_dir, template, limit, protocol and shots go with a published one."
            )
        return TASKS[name]()
    try:
        entry = find(name)
    except UnknownName:
        raise UnknownName("task", name, [*TASKS, *CATALOGUE], "Your own file is given with --data FILE.") from None
    return load_task(entry, parse_spec({"task": entry.name, "seed": seed, **given}))


def task_like(
    name: str,
    template: str,
    choices: tuple[str, ...],
    data_dir: str | Path | None = None,
    limit: Mapping[Split, int] | None = None,
) -> Task:
    """A published task in the words of a run. Raises BadInput when it is asked otherwise."""
    entry = find(name)
    for form in ("words", "paper"):
        if (entry.form(form).template, entry.form(form).words) == (template, choices):
            return get_task(name, data_dir=data_dir, template=form, limit=limit)
    raise BadInput(
        f"{entry.name} asks {entry.words.template!r} for {', '.join(entry.words.words) or 'free text'}; the run was "
        f"tuned with {template!r} for {', '.join(choices) or 'free text'}. Evaluate it on a task that asks alike."
    )


def task_again(origin: Mapping[str, Any]) -> Task:
    """The task that a run.json recorded. Raises BadData when its data is not what it was."""
    if "task" not in origin:
        return from_origin(origin)
    return load_again(origin) if origin["task"] in CATALOGUE else get_task(origin["task"])
