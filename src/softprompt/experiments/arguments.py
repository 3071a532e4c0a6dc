"""The arguments of sweep, compare and reproduce, declared once, as softprompt.training.arguments declares train's."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, Field, InstanceOf, SkipValidation

from softprompt.evaluation.rivals import RIVALS, check_rivals
from softprompt.experiments.power import parse_spread
from softprompt.experiments.search_space import Range, parse_grid, parse_ranges
from softprompt.recipes.setting import Setting
from softprompt.runtime.arguments import Flag
from softprompt.tasks.published.spec import PublishedRows
from softprompt.tasks.task import Split, Task
from softprompt.training.arguments import CommonArguments, ConsoleArgument, RivalsArgument, RunArguments
from softprompt.training.parsing import split_names


def split_all_names(texts: Sequence[str]) -> list[str]:
    """Read names from texts that hold one or more, separated by commas."""
    return [name for text in texts for name in split_names(text)]


def check_spread(text: str | None) -> str | None:
    """Return `text`. Raises BadInput where it is not a spread."""
    if text is not None:
        parse_spread(text)
    return text


class ManyRuns(ConsoleArgument):
    """Arguments of every verb that trains many runs."""

    heading: ClassVar[str] = "Many runs"

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


class AllRivals(RivalsArgument):
    """What else is scored: where many runs are trained, all of it is cheap."""

    heading: ClassVar[str] = "Many runs"

    rivals: Annotated[Sequence[str], Flag(parse=split_names), AfterValidator(check_rivals)] = Field(
        tuple(RIVALS), description=RivalsArgument.model_fields["rivals"].description
    )


class SweepArguments(ManyRuns, AllRivals, RunArguments):
    """Arguments of sweep."""

    heading: ClassVar[str] = "Search"

    grid: Annotated[Mapping[str, Sequence[object]], Flag(parse=parse_grid, repeatable=True)] = Field(
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


class CompareArguments(ManyRuns, AllRivals, CommonArguments):
    """Arguments of compare."""

    heading: ClassVar[str] = "Comparison"

    tasks: Annotated[
        str | InstanceOf[Task] | Sequence[str | InstanceOf[Task]] | None,
        SkipValidation,
        Flag("--task", repeatable=True),
    ] = Field(None, description="Task (`softprompt list tasks`), or a file of data; repeatable.")
    methods: Annotated[Sequence[str], Flag(parse=split_names)] = Field(
        (), description="Methods: prompt_tuning,dept,superpos; LABEL=METHOD where one enters several times."
    )
    seeds: int = Field(3, description="Runs of each method at its chosen setting.")
    budget: int = Field(3, description="Settings (learning rates) that each method tries.")
    spread: Annotated[str | None, AfterValidator(check_spread)] = Field(
        None, description="How much differences vary, in points: SEEDS,TASKS (1.5,2); says what can be seen."
    )
    pilot: str | Path | None = Field(None, description="Finished comparison to read --spread from.")
    baseline: str | None = Field(
        None, description="Method that the others are compared with; prompt_tuning when not given."
    )


def declared_in(model: type[BaseModel], name: str) -> Any:
    """Return the field `name` as `model` declares it (bounds, help, flag), with None as its default.

    Any, as pydantic's own Field is: what it returns stands for the field's value.
    """
    field = deepcopy(model.model_fields[name])
    field.default, field.default_factory = None, None
    return field


class ReproduceArguments(ManyRuns):
    """Arguments of reproduce; those that a single run has too are declared there. None: as the table has it.

    There is no `draw`: a few-shot table draws other examples for every seed.
    """

    heading: ClassVar[str] = "Table"

    table: Annotated[str, Flag("TABLE")] = Field(description="Table of a paper (`softprompt list tables`).")
    backbone: str | None = Field(None, description="Frozen model; the table's own when not given.")
    tasks: Annotated[Sequence[str] | None, Flag(parse=split_all_names, repeatable=True)] = Field(
        None, description="Tasks to run, of the table's: rte,cola; repeatable."
    )
    lines: Annotated[Sequence[str] | None, Flag(parse=split_all_names, repeatable=True)] = Field(
        None, description="Lines to run, of the table's: dept,prompt_tuning; repeatable."
    )
    seeds: int | None = Field(None, ge=1, description="Runs of each cell; as many as the table has when not given.")
    data_dir: str | Path | None = declared_in(PublishedRows, "data_dir")
    protocol: str | None = declared_in(PublishedRows, "protocol")
    compat: bool | None = declared_in(PublishedRows, "compat")
    shots: int | None = declared_in(PublishedRows, "shots")
    limit: int | Mapping[Split, int] | None = declared_in(CommonArguments, "limit")
    settings: Mapping[str, object] | None = declared_in(CommonArguments, "settings")
    start_from: str | Path | None = declared_in(CommonArguments, "start_from")
    max_source: int | None = declared_in(Setting, "max_source")
    dtype: str | None = declared_in(Setting, "dtype")
    device: str | None = declared_in(Setting, "device")
    tokens_per_pass: int | None = declared_in(Setting, "tokens_per_pass")
