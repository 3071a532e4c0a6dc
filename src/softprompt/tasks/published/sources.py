"""Read the rows of a published task: from the hub, or from a folder of files.

A local folder has DATA_DIR/FAMILY/TASK/SPLIT.parquet (or .jsonl, .csv, .tsv; or shards as the hub
writes them, SPLIT-00000-of-00002.parquet), with the hub's names of splits and columns:
data/glue/rte/train.jsonl has lines like {"sentence1": ..., "sentence2": ..., "label": 0}. A label may be the
class's number or its name. softprompt.tasks.published.known_folders reads some other folders as they are published.
"""

from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypedDict

from softprompt.errors import BadData, BadInput, first_line
from softprompt.tasks.published.entry import Entry
from softprompt.tasks.published.known_folders import KnownFolder, find_known_folder
from softprompt.tasks.readers import Row, as_text, read_rows
from softprompt.tasks.task import SPLITS, Split

ENDINGS = (".parquet", ".jsonl", ".csv", ".tsv")
LARGE = 50_000
"""A limited split of at least so many rows is streamed: about what is read in a minute."""
BUFFER = 10_000
"""Rows among which a stream is shuffled; datasets in the order of their classes have at most LARGE rows."""


class Part(NamedTuple):
    """Rows of one file, or of one split of the hub."""

    place: Path | str
    rows: list[Row]


class HubCall(TypedDict):
    """Arguments of `datasets.load_dataset`."""

    path: str
    name: str | None
    split: str
    streaming: bool


def splits_of(entry: Entry, data_dir: Path | None) -> list[Split]:
    """List the splits that can be read: the published ones, and a dev of a known folder."""
    return [split for split in SPLITS if split in entry.splits or _known_folder(entry, split, data_dir)]


def notes_of(entry: Entry, data_dir: Path | None) -> dict[str, str]:
    """Return how a known folder differs from the published splits, by split."""
    folders = {split: _known_folder(entry, split, data_dir) for split in SPLITS}
    return {split: folder.note for split, folder in folders.items() if folder and folder.note}


def read_split(
    entry: Entry, split: Split, data_dir: Path | None, limit: int | None = None, seed: int = 0
) -> list[Part]:
    """Read the rows of a split.

    Args:
        entry: The task.
        split: The split.
        data_dir: Folder of local files; None: the hub.
        limit: Rows that are enough: a large split of the hub is then streamed and shuffled, not read whole.
        seed: Random seed of that shuffling.

    Raises:
        BadData: A file is missing or cannot be read.
        BadInput: The hub cannot be read.
    """
    if split not in splits_of(entry, data_dir):
        raise BadInput(f"{entry.name} has no published {split} split; it has {', '.join(entry.splits)}.")
    if data_dir is None:
        return _from_hub(entry, split, limit, seed)
    if not data_dir.is_dir():
        raise BadData("there is no such folder; --data-dir names the one that holds FAMILY/TASK/SPLIT files", data_dir)
    folder = data_dir / entry.name
    if known := _known_folder(entry, split, data_dir):
        return [Part(path, known.read(path)) for path in known.paths(data_dir)]
    return [
        Part(path, read_rows(path)) for name in entry.splits[split].split("+") for path in _files(entry, folder, name)
    ]


def local_layout(entry: Entry) -> str:
    """Describe the files that a task can be read from without the hub."""
    names = [name for split in entry.splits.values() for name in split.split("+")]
    files = f"DATA_DIR/{entry.name}/{{{','.join(names)}}}.parquet (or .jsonl, .csv, .tsv)"
    return f"{files} with the columns {', '.join(entry.read_columns())}"


def hub_call(entry: Entry, split: Split, limit: int | None) -> HubCall:
    """Return the arguments of `datasets.load_dataset` for a split."""
    path, config, name = entry.elsewhere.get(split, (entry.path, entry.config, entry.splits[split]))
    published = sum(entry.rows.get(name, 0) for name in entry.splits[split].split("+"))
    return {
        "path": path, "name": config, "split": name,
        "streaming": limit is not None and published >= LARGE and "+" not in entry.splits[split],
    }  # fmt: skip


def _known_folder(entry: Entry, split: Split, data_dir: Path | None) -> KnownFolder | None:
    if data_dir is None or (data_dir / entry.name).is_dir():  # the documented layout has priority
        return None
    return find_known_folder(entry.name, split, data_dir)


def _from_hub(entry: Entry, split: Split, limit: int | None, seed: int) -> list[Part]:
    import datasets

    call = hub_call(entry, split, limit)
    place = " ".join(word for word in (call["path"], call["name"], call["split"]) if word)
    try:
        found = datasets.load_dataset(**call)
        if call["streaming"]:
            found = islice(found.shuffle(seed=seed, buffer_size=BUFFER), limit)
        return [Part(place, _rows(found))]
    except (OSError, ValueError, RuntimeError) as error:  # all errors of datasets and of the hub's client
        reason = first_line(error)
        raise BadInput(
            f"{entry.name}: the hub's dataset {place} cannot be read ({reason}). "
            f"Without the hub, give --data-dir DATA_DIR with {local_layout(entry)}."
        ) from error


def _rows(found: Iterable[Mapping[str, object]]) -> list[Row]:
    return [
        Row(number, {key: as_text(value) for key, value in row.items() if value is not None})
        for number, row in enumerate(found, 1)
    ]


def _files(entry: Entry, folder: Path, name: str) -> list[Path]:
    for ending in ENDINGS:
        if (path := folder / f"{name}{ending}").is_file():
            return [path]
    if shards := sorted(folder.glob(f"{name}-*-of-*.parquet")):
        return shards
    there = ", ".join(sorted(path.name for path in folder.iterdir())) if folder.is_dir() else "no such folder"
    raise BadData(f"no file of the split {name!r} (there: {there}); expected {local_layout(entry)}", folder)
