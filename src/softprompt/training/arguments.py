"""The arguments of a training run, declared once.

The signatures of train, check, sweep and compare, their flags on the command line, the keys of run.json and the table
docs/arguments.md are made from these classes (softprompt.runtime.arguments). An argument that run.json keeps is a field
of Setting, StepBudget or PublishedRows and is inherited here; a new one is one field, and its use.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, InstanceOf, SkipValidation
from rich.console import Console

from softprompt.evaluation.rivals import check_rivals
from softprompt.recipes.budget import Seeded, StepBudget
from softprompt.recipes.recipe import Recipe
from softprompt.recipes.setting import Setting
from softprompt.runtime.arguments import Flag
from softprompt.tasks.published.spec import PublishedRows
from softprompt.tasks.task import Split, Task
from softprompt.training.parsing import parse_limit, parse_settings, parse_words, split_names, unescape

PYTHON_ONLY = Flag(hidden=True)


class ConsoleArgument(BaseModel):
    """Where progress is printed."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    console: Annotated[InstanceOf[Console] | None, PYTHON_ONLY] = Field(
        None, description="Rich console that progress is printed to; standard error when not given."
    )


class CommonArguments(PublishedRows, StepBudget, Setting, ConsoleArgument):
    """Arguments that every verb that trains takes: data, backbone, length of a run."""

    heading: ClassVar[str] = "Data and settings"

    data: str | Path | None = Field(
        None, description="Your own data: .csv, .tsv, .jsonl, .json, .parquet, fastText's .txt; also .gz."
    )
    dev: str | Path | None = Field(None, description="Dev data; else 10 % of --data, drawn with --split-seed.")
    test: str | Path | None = Field(None, description="Test data; else 10 % of --data, drawn with --split-seed.")
    template: Annotated[str | None, Flag(parse=unescape)] = Field(
        None, description="Input text with {columns}, e.g. 'Review: {text}\\nSentiment:'. With --task: words or paper."
    )
    chat: bool = Field(
        False, description="Put --template, or the conversations of --data, into the backbone's chat template."
    )
    label: str | None = Field(
        None, description="Column that holds the label; found by its name or content when not given."
    )
    words: Annotated[Mapping[str, str], Flag("--word", parse_words, repeatable=True)] = Field(
        default_factory=dict, description="LABEL=WORD: answer to give for a label; repeatable."
    )
    split_seed: int = Field(0, ge=0, description="Random seed of the rows that are drawn from --data or --task.")
    limit: Annotated[int | Mapping[Split, int] | None, Flag(parse=parse_limit, repeatable=True)] = Field(
        None, description="Maximum rows of each split of --task, or of one: test=500; repeatable."
    )
    settings: Annotated[Mapping[str, object], Flag("--set", parse_settings, repeatable=True)] = Field(
        default_factory=dict,
        description="NAME=VALUE: any recipe field or method option (rates.prompt=0.3); repeatable. For one of several "
        "compared methods: METHOD.NAME=VALUE.",
    )
    start_from: str | Path | None = Field(
        None, description="Folder of a finished run: start from its prompt and offset (docs/transfer.md)."
    )


class RunArguments(CommonArguments, Seeded):
    """Arguments of one run on one task."""

    heading: ClassVar[str] = "Task and method"

    task: Annotated[str | InstanceOf[Task] | None, SkipValidation] = Field(
        None, description="Task that is shipped or published (`softprompt list tasks`)."
    )
    method: Annotated[str | Sequence[str] | None, Flag(repeatable=True)] = Field(
        None, description="Method (prompt_tuning); repeat it to train several in the same batches."
    )
    recipe: Annotated[InstanceOf[Recipe] | None, PYTHON_ONLY] = Field(
        None, description="Whole recipe to change, instead of --method."
    )


class RivalsArgument(BaseModel):
    """What else is scored beside prompts."""

    heading: ClassVar[str] = "Output"

    rivals: Annotated[Sequence[str], Flag(parse=split_names), AfterValidator(check_rivals)] = Field(
        (),
        description="Scored beside the prompts, with the same labels: tfidf, probe, calibrated (docs/compare.md), "
        "separated by commas.",
    )


class TrainingArguments(RivalsArgument, RunArguments):
    """Arguments of train."""

    heading: ClassVar[str] = "Output"

    output: str | Path = Field(description="Folder of the run, which must be new; with several methods, of all runs.")
    overwrite: bool = Field(False, description="Replace what --output holds.")
    tracker: Annotated[object, SkipValidation, Flag(repeatable=True)] = Field(
        None,
        description="Log to tensorboard, wandb, mlflow or trackio (or a GeneralTracker of accelerate); repeatable.",
    )
