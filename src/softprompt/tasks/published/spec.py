"""TaskSpec: which rows of a published task, with which template; in config files, run.json and flags of `train`."""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from softprompt.errors import BadInput, UnknownName
from softprompt.tasks.task import SPLITS, Split


class TaskSpec(BaseModel):
    """A published task as it is to be read; `load_task` reads it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: str
    data_dir: str | None = Field(None, description="folder of FAMILY/TASK/SPLIT files; null: from the hub")
    protocol: str = Field("fair", description="which rows train, select and test, and how answers are read")
    compat: bool = Field(False, description="with the known defects of the protocol's published code")
    form: str | None = Field(None, description='template: "words" or "paper"; null: the protocol\'s own')
    limit: dict[Split, int] = Field(default_factory=dict, description="most rows of a split")
    seed: int = Field(0, ge=0, description="of the draws: dev from train, and those of limit")
    shots: int | None = Field(None, ge=1, description="few-shot: this many training examples of each class")
    draw: int = Field(0, ge=0, description="which few-shot draw")


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
        return TaskSpec(**words)
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInput(f"Task: {'.'.join(map(str, first['loc']))}={first['input']!r}: {first['msg']}.") from None
