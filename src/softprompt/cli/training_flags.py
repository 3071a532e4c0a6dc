"""The words of `train` that check, sweep and compare take alike: declared once, and gathered into one dictionary."""

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import typer

from softprompt.cli.flags import (
    BackboneName,
    Batch,
    Checkpointing,
    Compat,
    Compile,
    Data,
    DataDir,
    DevFile,
    Device,
    Draw,
    Dropout,
    Dtype,
    Label,
    Limit,
    MaxSource,
    Placement,
    Protocol,
    Set,
    Shots,
    SplitSeed,
    StartFrom,
    Steps,
    Template,
    TestFile,
    TokensPerPass,
    TokensPerStep,
    Words,
)
from softprompt.errors import BadInput
from softprompt.training import parsing
from softprompt.training.config_file import beside, plan_words

Said = dict[str, Any]


def gather(
    data: Data = None,
    backbone: BackboneName = "",
    steps: Steps = None,
    batch: Batch = None,
    tokens_per_step: TokensPerStep = None,
    split_seed: SplitSeed = 0,
    data_dir: DataDir = None,
    limit: Limit = None,
    protocol: Protocol = None,
    compat: Compat = None,
    shots: Shots = None,
    draw: Draw = None,
    template: Template = None,
    label: Label = None,
    word: Words = None,
    dev: DevFile = None,
    test: TestFile = None,
    set_: Set = None,
    start_from: StartFrom = None,
    max_source: MaxSource = 256,
    placement: Placement = "front",
    dtype: Dtype = "float32",
    device: Device = None,
    dropout: Dropout = False,
    tokens_per_pass: TokensPerPass = None,
    gradient_checkpointing: Checkpointing = False,
    compile_: Compile = False,
) -> Said:
    """The words, as they were typed, under the names that `softprompt.train` has for them."""
    return {
        "data": data, "backbone": backbone, "steps": steps, "batch": batch, "tokens_per_step": tokens_per_step,
        "split_seed": split_seed, "data_dir": data_dir, "limit": limit, "protocol": protocol, "compat": compat,
        "shots": shots, "draw": draw, "template": template and parsing.unescaped(template), "label": label,
        "words": word, "dev": dev, "test": test, "settings": set_, "start_from": start_from, "max_source": max_source,
        "placement": placement, "dtype": dtype, "device": device, "dropout": dropout,
        "tokens_per_pass": tokens_per_pass, "gradient_checkpointing": gradient_checkpointing, "compile": compile_,
    }  # fmt: skip


def parsed(said: Said) -> Said:
    """`said` with LABEL=WORD, NAME=VALUE and SPLIT=N read. Raises BadInput for what is none of them."""
    return said | {
        "words": parsing.parse_words(said["words"] or []),
        "limit": parsing.parse_limit(said["limit"] or []),
        "settings": parsing.parse_settings(said["settings"] or []),
    }


def told(verb: Callable[..., None]) -> Callable[..., None]:
    """`verb` with the flags of `gather` behind its own, in place of its parameter `said`."""
    own, shared = inspect.signature(verb).parameters, inspect.signature(gather).parameters

    @wraps(verb)
    def made(**given: Any) -> None:
        said = gather(**{name: given.pop(name) for name in shared})
        verb(said=said, **given)

    flags = [*(own[name] for name in own if name != "said"), *shared.values()]
    keywords = [flag.replace(kind=inspect.Parameter.KEYWORD_ONLY) for flag in flags]
    made.__signature__ = inspect.Signature(keywords)  # type: ignore[attr-defined]  # what typer reads
    return made


def with_plan(ctx: typer.Context, said: Said, plan: Path | None, config: Path | None, recipe: str | None) -> Said:
    """The words of `train`: those of a plan, and before them those of the command line."""
    if plan is not None and config is not None:
        raise BadInput(f"{plan} and --config {config}: give one of them.")
    planned = beside(plan_words(plan or config, recipe), data=said["data"], task=said["task"])
    return said | {k: v for k, v in planned.items() if not _was_given(ctx, k)}


def _was_given(ctx: typer.Context, word: str) -> bool:
    """Whether a word of `train` stands on the command line."""
    name = {"settings": "set_", "words": "word", "compile": "compile_", "recipe": ""}.get(word, word)
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
