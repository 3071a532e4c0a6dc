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

**Splits.** The protocol decides which rows train, select and test ([protocols](protocols.md)). With `fair`, train is
the published split, test the published one where its labels are public and validation where they are hidden, and dev
the published split that is left, or a tenth of train.

**Templates.** `words` is natural language; `paper` is that of DePT's code, with numbers for classes (its defects are
corrected: WinoGrande shows both options, STS-B is rounded to 0.2, every gold answer counts as it is written, WSC's
spans are always marked). Tasks that its code does not have get a template in its style: AG News, TREC, SST-5, MR, Subj,
IMDB, ANLI and GSM8K.

**Your own file** (`--data FILE`) needs no declaration: `.csv` (commas, semicolons or tabs), `.tsv`, `.jsonl`, `.json`
(a list of objects), `.parquet`, fastText's `.txt`, each also as `.gz`. What is found in it is printed, and
`softprompt check` shows it without training.

- *Label*: a column named label, target, answer, class, ...; else the one of fewest values that repeat. `--label` says
  which.
- *Text*: the other columns that hold text. Ids, numbers, dates, addresses, copies of the label, columns that are the
  same in all rows or missing in some are left out, and named. `--template 'Subject: {subject}\\n{Q1: what
  happened?}'` shows what you choose, under any header.
- *Known shapes*: `messages` or `conversations` (chat turns; the answer is the assistant's last),
  instruction/input/output, prompt/completion, question/choices/answer (the options are shown, the answer is a
  letter). They add the columns `conversation` and `reply`, `request`, `question_with_choices` and `letter`, which a
  template may show.
- *Chat models* (`--chat`): the template, or the turns of `messages`, stand in the backbone's own chat template, and
  the answer is the assistant's turn. Its pieces are kept in prompt.json, so that the prompt reads the same text on a
  server, in an export and on any day. `predict` and the server take a user's text, or turns as JSON.
- *Answers*: choices where at most 1,000 different labels repeat, real numbers as text with Pearson's correlation,
  else free text. Missing labels and lists of labels are refused; labels that differ in case, width or invisible
  characters are named. `--class-weights balanced` weighs rare answers up; macro-F1 stands beside accuracy.
- *Splits* (`--dev`, `--test`, else a tenth each): rows of one text stay together and labels keep their shares. Texts
  that stand in two given files, repeated texts and splits with one answer are said.

**A task with a name.** A task or a metric with a name is one function or one
entry, and one call; it works by its name in `train`, `evaluate`, `sweep` and `compare`:

```python
from softprompt.tasks import Task, from_files
from softprompt.tasks.metrics import Metric, register_metric
from softprompt.tasks.registry import register_task


def length_match(predictions, references):
    \"\"\"Return the share of answers as long as their reference.\"\"\"
    right = [len(answer) == len(golds[0]) for answer, golds in zip(predictions, references)]
    return sum(right) / len(right)


def tickets() -> Task:
    \"\"\"Route a ticket to its team.\"\"\"
    return from_files("tickets.csv", label="team", metrics=["accuracy", "length_match"])


register_metric(Metric("length_match", length_match, is_mean=True))
register_task(tickets)  # or an Entry, for a task that is published: --task FAMILY/TASK
```

A package declares the module that makes these calls as an entry point of the group `softprompt.metrics` or
`softprompt.tasks`; it is then imported when a name is not known.

The examples below are written for this page; none is from the data.
"""


def page() -> str:
    """Make the page."""
    return "\n".join([HEAD, *map(_section, CATALOGUE.values())])


def _section(entry: Entry) -> str:
    hub = entry.path if entry.config is None else f"{entry.path}, {entry.config}"
    also = "".join(f"; {split} from {path}" for split, (path, *_) in entry.elsewhere.items())
    splits = ", ".join(f"{split} = `{theirs}`" for split, theirs in entry.splits.items())
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
        *(_render(entry, name) for name in ("words", "paper")),
    ]
    return "\n".join(lines)


def _render(entry: Entry, form: str) -> str:
    values = {key: as_text(value) for key, value in ROWS[entry.name][0].items()}
    example = pose(entry, entry.form(form), "train", [Part("example", [Row(1, values)])])[0].example
    return f"`{form}`:\n\n```text\n{example.source}{example.cue}\n=> {example.target}\n```\n"


if __name__ == "__main__":
    FILE.write_text(page(), encoding="utf-8")
