"""The flags that several verbs of the command line share."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from softprompt.runtime.ray_cluster import HERE, is_address

Data = Annotated[Path | None, typer.Option(help="Your own data: .jsonl, .csv, .tsv or .parquet.")]
TaskName = Annotated[
    str | None, typer.Option("--task", help="A task that is shipped or published (`softprompt list tasks`).")
]
BackboneName = Annotated[str, typer.Option(help="Frozen model: smollm2-135m, a folder, or a hub id.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON to stdout.")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16, float16, or auto: bfloat16 where it is fast.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, mps, ...; the best there is when not given.")]
DataDir = Annotated[
    Path | None, typer.Option(help="Folder of FAMILY/TASK/SPLIT files for --task; without it, from the hub.")
]
Limit = Annotated[
    list[str] | None,
    typer.Option(help="Most rows of each split of --task, drawn with --split-seed; or of one: test=500. Repeatable."),
]
Protocol = Annotated[
    str | None, typer.Option(help="Which rows of --task train, select and test: fair, paper:dept or paper:superpos.")
]
Compat = Annotated[bool | None, typer.Option("--compat", help="With the defects of the protocol's published code.")]
Shots = Annotated[int | None, typer.Option(min=1, help="Few-shot: training examples of each class of --task.")]
Draw = Annotated[int | None, typer.Option(min=0, help="Which few-shot draw.")]
Template = Annotated[
    str | None,
    typer.Option(help="Input text with {columns}, e.g. 'Review: {text}\\nSentiment:'. With --task: words or paper."),
]
Label = Annotated[str | None, typer.Option(help="Column that holds the label; found by its name when not given.")]
Words = Annotated[list[str] | None, typer.Option("--word", help="What to say for a label, as LABEL=WORD; repeat.")]
DevFile = Annotated[Path | None, typer.Option("--dev", help="Dev data; else 10 % of --data, drawn with --split-seed.")]
Seed = Annotated[int | None, typer.Option(min=0, help="Of the prompt's start and the order of examples.")]
SplitSeed = Annotated[int, typer.Option(min=0, help="Of the dev and test rows drawn from --data.")]
TestFile = Annotated[Path | None, typer.Option("--test", help="Test data; else 10 % of --data.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Any recipe field or method option, NAME=VALUE (rates.prompt=0.3); of one of several methods compared: "
        "METHOD.NAME=VALUE.",
    ),
]
StartFrom = Annotated[
    Path | None, typer.Option(help="Folder of a finished run: start from its prompt and offset (docs/transfer.md).")
]
PlanFile = Annotated[
    Path | None, typer.Argument(help="A config file (YAML or JSON), or the run.json of a run to repeat.")
]
RecipeName = Annotated[
    str | None, typer.Option("--recipe", help="A paper's recipe: dept/glue-rte (`softprompt list recipes`).")
]
Config = Annotated[Path | None, typer.Option("--config", help="A config file; flags beside it go before it.")]
MaxSource = Annotated[int, typer.Option(min=1, help="Source tokens read; longer sources are cut, and counted.")]
Steps = Annotated[int | None, typer.Option(help="Optimizer steps.")]
Batch = Annotated[int | None, typer.Option(help="Examples a step.")]
TokensPerStep = Annotated[
    int | None, typer.Option(min=1, help="Instead of --batch: as many examples a step as hold this many tokens.")
]
TokensPerPass = Annotated[
    int | None, typer.Option(min=1, help="Most tokens in memory at a time; a larger step is accumulated, exactly.")
]
Together = Annotated[
    int | None,
    typer.Option(
        "--max-parallel", "--together", min=1, help="Most prompts in memory at a time; as many as fit when not given."
    ),
]
Ray = Annotated[
    str | None,
    typer.Option(
        metavar="[ADDRESS]",
        help="Over a Ray cluster: HOST:PORT, or that of RAY_ADDRESS or of this machine (docs/scale.md).",
    ),
]
Workers = Annotated[
    int | None, typer.Option(help="Processes of the Ray cluster; one for each GPU, or machine, when not given.")
]
Dropout = Annotated[bool, typer.Option("--dropout", help="Leave the frozen model's own dropout on.")]
Checkpointing = Annotated[
    bool, typer.Option("--gradient-checkpointing", help="Compute layers twice instead of keeping them: less memory.")
]
Placement = Annotated[
    str, typer.Option(help="Where the prompt stands: front, after_bos, after_source (before the answer).")
]
Compile = Annotated[bool, typer.Option("--compile", help="Compile the layers (torch.compile): starts slowly.")]
Fsdp = Annotated[
    bool, typer.Option("--fsdp/--no-fsdp", help="Shard the backbone over the processes of this run (docs/scale.md).")
]
Trackers = Annotated[
    list[str] | None, typer.Option("--tracker", help="Log to tensorboard, wandb, mlflow or trackio; repeatable.")
]


class Spread(TyperCommand):
    """A verb with --ray, whose address may be left out."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        told = []
        for word, following in zip(args, [*args[1:], ""], strict=True):
            told += [word] if word != "--ray" or is_address(following) else [word, HERE]
        return super().parse_args(ctx, told)
