"""TaskSpec: which rows of a published task, with which template; in config files, run.json and flags of `train`."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from softprompt.errors import BadInput, UnknownName
from softprompt.tasks.task import SPLITS, Split


class PublishedRows(BaseModel):
    """Which rows of a published task are read: the arguments that the flags of train declare too."""

    heading: ClassVar[str] = "Published tasks (--task)"

    model_config = ConfigDict(extra="forbid", frozen=True)

    data_dir: str | Path | None = Field(
        None, description="Folder of FAMILY/TASK/SPLIT files for --task; without it, rows come from the hub."
    )
    protocol: str = Field(
        "fair",
        description="Rows of --task that train, select and test: fair, paper:dept, paper:peft or paper:superpos.",
    )
    compat: bool = Field(False, description="Keep the known defects of the protocol's published code.")
    shots: int | None = Field(None, ge=1, description="Few-shot: training examples of each class of --task.")
    draw: int = Field(0, ge=0, description="Index of the few-shot sample to train on.")


class TaskSpec(PublishedRows):
    """A published task as it is to be read; `load_task` reads it."""

    task: str
    data_dir: str | None = None
    form: str | None = Field(None, description='Template: "words" or "paper"; null: the protocol\'s own.')
    limit: dict[Split, int] = Field(default_factory=dict, description="Maximum rows of a split.")
    seed: int = Field(0, ge=0, description="Random seed of the draws: dev from train, and those of limit.")


def as_limit(limit: int | Mapping[Split, int] | None) -> dict[Split, int]:
    """Return the limit of each split that it is given for. Raises BadInput for less than one row."""
    given = dict(limit) if isinstance(limit, Mapping) else {} if limit is None else dict.fromkeys(SPLITS, limit)
    for split, most in given.items():
        if split not in SPLITS:
            raise UnknownName("split", split, SPLITS)
        if most < 1:
            raise BadInput(f"limit={most}: expected at least one row of {split}.")
    return given


def parse_spec(given: Mapping[str, object]) -> TaskSpec:
    """Check a TaskSpec. Raises UnknownName or BadInput."""
    for name in given:
        if name not in TaskSpec.model_fields:
            raise UnknownName("task field", name, TaskSpec.model_fields)
    limit = given.get("limit")
    words = {**given, "limit": as_limit(limit)} if limit is None or isinstance(limit, int | Mapping) else given
    try:
        return TaskSpec.model_validate(dict(words))
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInput(f"Task: {'.'.join(map(str, first['loc']))}={first['input']!r}: {first['msg']}.") from None
