"""Write docs/tasks.md from the catalogue: `python -m docs.make_tasks`, from the root of the repository."""

from pathlib import Path

from tests.published import ROWS

from softprompt.tasks.published.catalogue import CATALOGUE, pose
from softprompt.tasks.published.entry import Entry
from softprompt.tasks.published.sources import Part
from softprompt.tasks.readers import Row, as_text

FILE = Path(__file__).with_name("tasks.md")
HEAD = """# Tasks

Made by `python -m docs.make_tasks` from the catalogue (`src/softprompt/tasks`); do not edit.

`softprompt list tasks` lists them. `--task glue/rte` reads one from the hub; `--data-dir DIR` reads it from
`DIR/glue/rte/train.parquet` and so on (also `.jsonl`, `.csv`, `.tsv`, or the hub's shards
`train-00000-of-00001.parquet`), in the columns named below. A TSV is read without quoting, as GLUE's are written.
A label may be a class's number or its name. `--limit N` draws at most N rows of each split.

**Splits.** Which rows train, select and test is said by the protocol ([protocols](protocols.md)). Under `fair`, train
is the published one, test the published one where its labels are public and validation where they are hidden, and
dev what test leaves over or a tenth of train.

**Templates.** `words` asks in natural language, `paper` as DePT's code does, with numbers for classes (its
defects corrected: WinoGrande shows both options, STS-B is rounded to 0.2, every gold answer counts and is as it
was written, WSC's spans are always marked). Tasks that its code does not know are asked in its manner: AG News,
TREC, SST-5, MR, Subj, IMDB, ANLI and GSM8K.

The examples below are written for this page; none is from the data.
"""


def page() -> str:
    return "\n".join([HEAD, *map(_section, CATALOGUE.values())])


def _section(entry: Entry) -> str:
    hub = entry.path if entry.config is None else f"{entry.path}, {entry.config}"
    also = "".join(f"; {split} from {path}" for split, (path, _) in entry.elsewhere.items())
    splits = ", ".join(f"{ours} = `{theirs}`" for ours, theirs in entry.splits.items())
    classes = ", ".join(f"{name} = {word}" for name, word in zip(entry.labels, entry.words.words, strict=True))
    lines = [
        f"## {entry.name}",
        "",
        f"{entry.about} {entry.citation}.",
        "",
        f"- hub: {hub}{also}; {splits}",
        f"- rows (train/dev/test): {entry.published_rows()}",
        f"- columns: {', '.join(f'`{column}`' for column in entry.read_columns())}",
        f"- answers: {classes or 'free text'}",
        f"- metrics: {', '.join(entry.metric_names(entry.words))}; the first selects",
        "",
        *(_rendered(entry, name) for name in ("words", "paper")),
    ]
    return "\n".join(lines)


def _rendered(entry: Entry, form: str) -> str:
    values = {key: as_text(value) for key, value in ROWS[entry.name][0].items()}
    example = pose(entry, entry.form(form), "train", [Part("example", [Row(1, values)])])[0].example
    return f"`{form}`:\n\n```text\n{example.source}{example.cue}\n=> {example.target}\n```\n"


if __name__ == "__main__":
    FILE.write_text(page(), encoding="utf-8")
