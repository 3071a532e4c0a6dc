"""Read the rows of a data file (JSON, JSONL, CSV, TSV, Parquet, fastText's text; also .gz), each value as text."""

import csv
import gzip
import io
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from softprompt.errors import BadData

DELIMITERS = ",;\t|"
"""What separates the columns of a .csv, most usual first."""
SNIFFED = 20
"""Lines that show which it is."""
HEAD = 1 << 16
"""Characters in which those lines are looked for."""
FASTTEXT = "__label__"


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
        ".jsonl": _jsonl, ".ndjson": _jsonl, ".json": _json, ".csv": partial(_csv, header=columns),
        ".tsv": partial(_tsv, header=columns), ".parquet": _parquet, ".txt": _fasttext,
    }  # fmt: skip
    if path.is_dir():
        raise BadData("is a folder; expected a file", path)
    if not path.is_file():
        raise BadData("there is no such file", path)
    kind = Path(path.stem if path.suffix.lower() == ".gz" else path.name).suffix.lower()
    if kind in (".xlsx", ".xls", ".ods"):
        raise BadData("is a spreadsheet; save it as CSV (in Excel: CSV UTF-8) and give that file", path)
    if kind not in readers or (kind == ".parquet" and path.suffix.lower() == ".gz"):
        raise BadData(f"unknown kind of file {kind or path.suffix!r}; expected one of {', '.join(readers)}", path)
    try:
        rows = readers[kind](path)
    except OSError as error:  # gzip's own is one, too
        raise BadData(f"cannot be read: {error.strerror or error}", path) from None
    except EOFError:
        raise BadData("ends in the middle: the .gz file was cut off", path) from None
    if not rows:
        raise BadData("has no rows", path)
    return rows


def _text(path: Path) -> str:
    data = path.read_bytes()
    if path.suffix.lower() == ".gz":
        data = gzip.decompress(data)
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):  # Excel's "Unicode text"
        return data.decode("utf-16")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # Not `data`: positions in the error do not count a byte order mark.
        line = error.object[: error.start].count(b"\n") + 1
        byte = error.object[error.start]
        raise BadData(
            f"is not UTF-8 (byte 0x{byte:02x}). If it comes from Windows: iconv -f WINDOWS-1252 -t UTF-8 {path.name} > "
            f"utf8-{path.name}",
            path, line,
        ) from None  # fmt: skip


def _json(path: Path) -> list[Row]:
    """Read a list of objects, alone or as the one list of an object ({"data": [...]}), or JSON Lines."""
    text = _text(path)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return _jsonl(path)
    lists = [value for value in found.values() if isinstance(value, list)] if isinstance(found, dict) else []
    if len(lists) == 1:
        found = lists[0]
    if not isinstance(found, list):
        return _jsonl(path)
    return [_object(path, number, value) for number, value in enumerate(found, 1)]


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
        rows.append(_object(path, line, value))
    return rows


def _object(path: Path, line: int, value: object) -> Row:
    """Make a row of a JSON object; null and NaN are missing."""
    if not isinstance(value, dict):
        raise BadData(f"expected a JSON object, found {type(value).__name__}", path, line)
    values = {key: as_text(item) for key, item in value.items() if not _is_missing(item)}
    try:
        "".join([*values, *values.values()]).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise BadData(f"has half of a character, {half!r}; was a text cut inside an emoji?", path, line) from None
    return Row(line, values)


def _is_missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _fasttext(path: Path) -> list[Row]:
    """Read fastText's lines: __label__NAME before the text."""
    rows = []
    for line, text in enumerate(_text(path).split("\n"), 1):
        if not text.strip():
            continue
        marked, _, said = text.strip().partition(" ")
        if not marked.startswith(FASTTEXT):
            raise BadData(
                f"a .txt file has {FASTTEXT}NAME before each text (fastText); give other data as .csv", path, line
            )
        if said.startswith(FASTTEXT):
            raise BadData("has several labels; one prompt learns one answer a row", path, line)
        rows.append(Row(line, {"text": said, "label": marked.removeprefix(FASTTEXT)}))
    return rows


def _csv(path: Path, header: Sequence[str] | None) -> list[Row]:
    text = _text(path)
    if excel := re.match(r"sep=(.)\r?\n", text, re.IGNORECASE):  # a line for Excel alone
        return _delimited(path, text[excel.end() :], header, excel[1], csv.QUOTE_MINIMAL, strict=True, before=1)
    return _delimited(path, text, header, _find_delimiter(text), csv.QUOTE_MINIMAL, strict=True)


def _find_delimiter(text: str) -> str:
    """Return what separates the columns: what cuts the first lines into equally many, and most of them."""
    best, most, head = DELIMITERS[0], 1, text[:HEAD]
    for delimiter in DELIMITERS:
        reader = csv.reader(io.StringIO(head, newline=""), delimiter=delimiter)
        try:
            widths = [len(values) for values, _ in zip(reader, range(SNIFFED), strict=False) if values]
        except csv.Error:
            continue
        if reader.line_num >= head.count("\n") and len(head) < len(text):
            widths = widths[:-1]  # the last row is cut
        if len(set(widths)) == 1 and widths[0] > most:
            best, most = delimiter, widths[0]
    return best


def _tsv(path: Path, header: Sequence[str] | None) -> list[Row]:
    # A quotation mark in TSV is an ordinary character (IANA text/tab-separated-values; so in GLUE's files).
    return _delimited(path, _text(path), header, "\t", csv.QUOTE_NONE)


def _delimited(
    path: Path, text: str, header: Sequence[str] | None, delimiter: str, quoting: Literal[0, 3], *,
    strict: bool = False, before: int = 0,
) -> list[Row]:  # fmt: skip
    """Read delimited text.

    Args:
        path: For messages.
        text: The file's, from its header on.
        header: Names of the columns of a file that has no header.
        delimiter: Character between columns.
        quoting: csv.QUOTE_MINIMAL or csv.QUOTE_NONE.
        strict: Refuse malformed quotes.
        before: Lines of the file before `text`.
    """
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=strict)
    given = header is not None
    rows: list[Row] = []
    end = skipped = 0
    try:
        for values in reader:
            line, end = before + end + 1, reader.line_num
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
        raise BadData(f"is malformed: {error}", path, before + end + 1) from None
    if not given and header is not None:
        _check_header(path, header, rows)
    return rows


def _check_header(path: Path, header: Sequence[str], rows: Sequence[Row]) -> None:
    """Raise BadData where the first line is a row like the others: one of its cells is a label below, too."""
    for name in header:
        if not any(row.values[name] == name for row in rows):
            continue
        values = Counter(row.values[name] for row in rows)
        if 2 <= len(values) <= len(rows) // 2:
            raise BadData(
                f"has no header: its first line says {name!r}, which stands {values[name]} times below it as well. Put "
                "a first line there that names the columns, such as text,label",
                path, 1,
            )  # fmt: skip


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
        Row(line, {key: as_text(item) for key, item in row.items() if not _is_missing(item)})
        for line, row in enumerate(found, 1)
    ]


def parse_json(text: str) -> object:
    """Read a list or an object out of a value that `as_text` wrote; None for any other text."""
    if text[:1] not in ("[", "{"):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


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
