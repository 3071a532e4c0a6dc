"""run.json: the task, setting and recipe of a run, from which it can be repeated or resumed."""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from softprompt.errors import BadArtefact
from softprompt.recipes import Recipe, Setting
from softprompt.runs.start_from import StartFrom

FORMAT = 1


class Distillation(BaseModel):
    """The distillation losses of MPT's source stage (softprompt.training.source_stage)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    teachers: list[StartFrom]
    """The run that each task's prompt learns from."""
    weight: float
    temperature: float = Field(ge=0.01, le=100)


class RunCard(BaseModel):
    """run.json: enough to repeat the run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = FORMAT
    name: str
    recipe: Recipe
    setting: Setting
    task: dict[str, Any]
    """Origin of the task: what is needed to read it again."""
    start_from: StartFrom | None = None
    sources: list[StartFrom] = []
    """The runs whose prompts the method reads."""
    distillation: Distillation | None = None
    """Set for a run on several tasks, whose origins are in `task` under "tasks"."""
    versions: dict[str, str]


def read_run_card(folder: Path) -> RunCard:
    """Read the run.json in `folder`, or a copy of one as a file. Raises BadArtefact."""
    path = folder if folder.is_file() else folder / "run.json"
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(value, dict) and value.get("format") != FORMAT:
            raise BadArtefact(f"{path} has format {value.get('format')!r}; this version of softprompt reads {FORMAT}.")
        return RunCard.model_validate(value)
    except FileNotFoundError:
        raise BadArtefact(f"{folder} holds no run.json, so no run to resume; give the --output of a run.") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise BadArtefact(
            f"{path} is not a valid run.json: {'.'.join(map(str, first['loc']))}: {first['msg']}."
        ) from None
    except (OSError, ValueError) as error:
        raise BadArtefact(f"{path} cannot be read: {error}.") from None
