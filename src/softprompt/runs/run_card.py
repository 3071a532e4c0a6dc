"""TODO."""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from softprompt.errors import BadArtefact
from softprompt.recipes import Recipe, Setting
from softprompt.runs.start_from import StartFrom

FORMAT = 1


class Distillation(BaseModel):
    """What MPT's source stage adds to the losses of its tasks (softprompt.training.source_stage)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    teachers: list[StartFrom]
    """The runs that each task's prompt learns from."""
    weight: float
    temperature: float


class RunCard(BaseModel):
    """run.json: enough to do the run again."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = FORMAT
    name: str
    recipe: Recipe
    setting: Setting
    task: dict[str, Any]
    start_from: StartFrom | None = None
    sources: list[StartFrom] = []
    """The runs whose prompts the method reads."""
    distillation: Distillation | None = None
    """Of a run on several tasks, whose origins `task` then holds under "tasks"."""
    versions: dict[str, str]


def read_run_card(folder: Path) -> RunCard:
    """The run.json in `folder`, or a copy of one. Raises BadArtefact."""
    path = folder if folder.is_file() else folder / "run.json"
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(value, dict) and value.get("format") != FORMAT:
            raise BadArtefact(f"{path} has format {value.get('format')!r}; this version of softprompt reads {FORMAT}.")
        return RunCard.model_validate(value)
    except FileNotFoundError:
        raise BadArtefact(f"{folder} holds no run.json, so no run to go on with; give the --output of a run.") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise BadArtefact(f"{path} is no run of ours: {'.'.join(map(str, first['loc']))}: {first['msg']}.") from None
    except (OSError, ValueError) as error:
        raise BadArtefact(f"{path} cannot be read: {error}.") from None
