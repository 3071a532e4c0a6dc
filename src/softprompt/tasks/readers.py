"""Read the rows of a data file (JSONL, CSV, TSV, Parquet), each value as text."""

import csv
import io
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from softprompt.errors import BadData


class Row(NamedTuple):
    """A row of a file and its place there."""

    line: int
    """Line of the file (of Parquet: row), counted from 1."""
    values: dict[str, str]


def read_rows(path: Path, columns: Sequence[str] | None = None) -> list[Row]:
    """Read a file by its extension. Raises BadData, with file and line, for what cannot be used.

    `columns` names the columns of a CSV or TSV that has no header.
    """
    readers: dict[str, Callable[[Path], list[Row]]] = {
        ".jsonl": _jsonl, ".ndjson": _jsonl, ".csv": partial(_csv, header=columns),
        ".tsv": partial(_tsv, header=columns), ".parquet": _parquet,
    }  # fmt: skip
    if path.is_dir():
        raise BadData("is a folder; expected a file", path)
    if not path.is_file():
        raise BadData("there is no such file", path)
    if path.suffix.lower() not in readers:
        raise BadData(f"unknown kind of file {path.suffix!r}; expected one of {', '.join(readers)}", path)
    try:
        rows = readers[path.suffix.lower()](path)
    except OSError as error:
        raise BadData(f"cannot be read: {error.strerror or error}", path) from None
    if not rows:
        raise BadData("has no rows", path)
    return rows


def _text(path: Path) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # Not `data`: positions in the error do not count a byte order mark.
        line = error.object[: error.start].count(b"\n") + 1
        byte = error.object[error.start]
        raise BadData(f"is not UTF-8 (byte 0x{byte:02x}); convert it, for instance with iconv", path, line) from None


def _jsonl(path: Path) -> list[Row]:
    rows = []
    for line, text in enumerate(_text(path).split("\n"), 1):
        if not text.strip():
            continue
        try:
            value = json.loads(text)
        except (
            ValueError,
            RecursionError,
        ) as error:  # numbers that are too long and lists that are too deep for Python, too
            raise BadData(f"is not JSON: {getattr(error, 'msg', error)}", path, line) from None
        if not isinstance(value, dict):
            raise BadData(f"expected a JSON object, found {type(value).__name__}", path, line)
        values = {key: as_text(item) for key, item in value.items() if item is not None}
        try:
            "".join([*values, *values.values()]).encode()
        except UnicodeEncodeError as error:
            half = error.object[error.start]
            raise BadData(f"has half of a character, {half!r}; was a text cut inside an emoji?", path, line) from None
        rows.append(Row(line, values))
    return rows


def _csv(path: Path, header: Sequence[str] | None) -> list[Row]:
    return _delimited(path, header, delimiter=",", quoting=csv.QUOTE_MINIMAL, strict=True)


def _tsv(path: Path, header: Sequence[str] | None) -> list[Row]:
    # A quotation mark in TSV is an ordinary character (IANA text/tab-separated-values; so in GLUE's files).
    return _delimited(path, header, delimiter="\t", quoting=csv.QUOTE_NONE)


def _delimited(
    path: Path, header: Sequence[str] | None, *, delimiter: str, quoting: Literal[0, 3], strict: bool = False
) -> list[Row]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    reader = csv.reader(io.StringIO(_text(path), newline=""), delimiter=delimiter, quoting=quoting, strict=strict)
    rows: list[Row] = []
    end = skipped = 0
    try:
        for values in reader:
            line, end = end + 1, reader.line_num
            if not values:
                continue
            if header is None:
                skipped = int(values[0].strip() == "" and len(values) > 1)  # the index column that pandas writes
                header = _header(path, values[skipped:], line)
            elif len(values) != len(header) + skipped:
                expected = f"expected {len(header)} columns ({', '.join(header)}), found {len(values) - skipped}"
                raise BadData(expected, path, line)
            else:
                rows.append(Row(line, dict(zip(header, values[skipped:], strict=True))))
    except csv.Error as error:
        raise BadData(f"is malformed: {error}", path, end + 1) from None
    return rows


def _header(path: Path, values: list[str], line: int | None) -> list[str]:
    names = [value.strip() for value in values]
    if len(set(names)) != len(names) or "" in names:
        raise BadData(f"the first line must name the columns, each once; found {names}", path, line)
    return names


def _parquet(path: Path) -> list[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if len(set(names)) != len(names):
                raise BadData(f"the columns must be named once each; found {names}", path)
            found = file.read().to_pylist()
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise BadData(f"is not Parquet: {str(error).splitlines()[0]}", path) from None
    return [
        Row(line, {key: as_text(item) for key, item in row.items() if item is not None})
        for line, row in enumerate(found, 1)
    ]


def as_text(value: object) -> str:
    """Convert a value to the text that a template or label shows."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):  # text in Parquet files of old writers
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value, ensure_ascii=False, default=as_text) if isinstance(value, (list, dict)) else str(value)
