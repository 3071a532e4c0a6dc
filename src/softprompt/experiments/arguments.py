"""The arguments of sweep and compare, declared once, as those of train are (softprompt.training.arguments)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, InstanceOf, SkipValidation

from softprompt.experiments.search_space import Range, parse_grid, parse_ranges
from softprompt.runtime.arguments import Flag
from softprompt.tasks.task import Task
from softprompt.training.arguments import CommonArguments, RunArguments


def split_names(text: str) -> list[str]:
    """Read names that are separated by commas."""
    return [name for name in text.split(",") if name]


class ManyRuns(BaseModel):
    """Arguments of every verb that trains many runs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    output: str | Path = Field(description="Folder of the runs and tables; given again, the experiment goes on there.")
    max_parallel: Annotated[int | None, Flag("--max-parallel --together")] = Field(
        None, ge=1, description="Maximum prompts in memory at a time; as many as fit when not given."
    )
    ray: Annotated[str | None, Flag(metavar="[ADDRESS]")] = Field(
        None,
        description="Address of a Ray cluster to run on: HOST:PORT; without one, that of RAY_ADDRESS or of this "
        "machine (docs/scale.md).",
    )
    workers: int | None = Field(
        None, description="Processes of the Ray cluster; one for each GPU, or machine, when not given."
    )


class SweepArguments(ManyRuns, RunArguments):
    """Arguments of sweep."""

    grid: Annotated[Mapping[str, Sequence[Any]], Flag(parse=parse_grid, repeatable=True)] = Field(
        default_factory=dict, description="FIELD=V1,V2: values of a recipe field or method option; repeatable."
    )
    ranges: Annotated[Mapping[str, InstanceOf[Range]], Flag("--range", parse_ranges, repeatable=True)] = Field(
        default_factory=dict,
        description="FIELD=LOW..HIGH to draw from; with :log after it, in the logarithm; repeatable.",
    )
    draws: Annotated[int | None, Flag("--random")] = Field(
        None, ge=1, description="Settings to draw from --grid and --range, instead of all combinations."
    )
    draw_seed: Annotated[int, Flag("--random-seed")] = Field(0, ge=0, description="Random seed of --random.")
    seeds: int = Field(1, description="Runs of each setting, with seeds from --seed on.")
    halving: int | None = Field(
        None, description="Successive halving: at each rung one in so many settings goes on (docs/compare.md)."
    )


class CompareArguments(ManyRuns, CommonArguments):
    """Arguments of compare."""

    tasks: Annotated[
        str | InstanceOf[Task] | Sequence[str | InstanceOf[Task]] | None,
        SkipValidation,
        Flag("--task", repeatable=True),
    ] = Field(None, description="Task (`softprompt list tasks`); repeatable.")
    methods: Annotated[Sequence[str], Flag(parse=split_names)] = Field(
        (), description="Methods: prompt_tuning,dept,superpos."
    )
    seeds: int = Field(3, description="Runs of each method at its chosen setting.")
    budget: int = Field(3, description="Settings (learning rates) that each method tries.")
    baseline: str | None = Field(
        None, description="Method that the others are compared with; prompt_tuning when not given."
    )
