"""Rows of the user's own files, and an error with file and line for every file that cannot be used."""

import csv
import datetime
import gzip
import json
import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from softprompt.errors import BadData
from softprompt.tasks.readers import Row, as_text, read_rows

ROWS = [
    {"text": "where is my parcel", "label": "delivery"},
    {"text": 'he said "late", twice', "label": "delivery"},
    {"text": "größer, 大きい 🙂", "label": "sales"},
    {"text": " blanks around ", "label": "sales"},
    {"text": "", "label": "billing"},
]


def write_jsonl(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_csv(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_tsv(path: Path, rows: list[dict[str, str]]) -> None:
    lines = [list(rows[0]), *(list(row.values()) for row in rows)]
    path.write_text("".join("\t".join(line) + "\n" for line in lines), encoding="utf-8")


def write_parquet(path: Path, rows: list[dict[str, str]]) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


WRITERS: dict[str, Callable[[Path, list[dict[str, str]]], None]] = {
    ".jsonl": write_jsonl, ".ndjson": write_jsonl, ".csv": write_csv, ".tsv": write_tsv, ".parquet": write_parquet,
}  # fmt: skip
TEXTS = [ending for ending in WRITERS if ending != ".parquet"]


def refused(path: Path, line: int | None = None) -> str:
    """The message of the refusal, which must begin with the file and the line, or with the file and no line."""
    with pytest.raises(BadData) as caught:
        read_rows(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: " if line is None else f"{path}, line {line}: "), message
    return message


# What is read


@pytest.mark.parametrize("ending", [*WRITERS, ".JSONL", ".Csv"])
def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"data{ending}"
    WRITERS[ending.lower()](path, ROWS)
    assert [row.values for row in read_rows(path)] == ROWS


@pytest.mark.parametrize(
    ("ending", "first"), [(".jsonl", 1), (".ndjson", 1), (".csv", 2), (".tsv", 2), (".parquet", 1)]
)
def test_lines_are_counted_from_1_and_the_header_is_one(tmp_path: Path, ending: str, first: int) -> None:
    path = tmp_path / f"data{ending}"
    WRITERS[ending](path, ROWS)
    assert [row.line for row in read_rows(path)] == [first + i for i in range(len(ROWS))]


@pytest.mark.parametrize("ending", TEXTS)
def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"data{ending}"
    WRITERS[ending](path, ROWS)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert [row.values for row in read_rows(path)] == ROWS


@pytest.mark.parametrize("ending", TEXTS)
def test_line_ends_of_windows_are_line_ends(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"data{ending}"
    WRITERS[ending](path, ROWS)
    path.write_bytes(path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
    rows = read_rows(path)
    assert [row.values for row in rows] == ROWS
    assert [row.line - rows[0].line for row in rows] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("ending", TEXTS)
def test_the_last_line_needs_no_end(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"data{ending}"
    WRITERS[ending](path, ROWS)
    path.write_bytes(path.read_bytes().rstrip(b"\r\n"))
    assert [row.values for row in read_rows(path)] == ROWS


@pytest.mark.parametrize(
    ("name", "text", "lines"),
    [
        ("data.jsonl", '\n{"a": 1}\n\n   \n{"a": 2}\n\n', [2, 5]),
        ("data.csv", "\na,b\n\n1,2\n\n\n3,4\n\n", [4, 7]),
        ("data.tsv", "a\tb\n1\t2\n\n3\t4\n\n", [2, 4]),
    ],
)
def test_empty_lines_are_no_rows_but_are_counted(tmp_path: Path, name: str, text: str, lines: list[int]) -> None:
    path = tmp_path / name
    path.write_text(text)
    assert [row.line for row in read_rows(path)] == lines


def test_a_quoted_csv_field_may_hold_commas_quotation_marks_and_lines(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text('text,label\n"one, two\nthree ""3""\n\nfour",a\nfive,b\n"six\nseven",c\neight,d\n')
    assert read_rows(path) == [
        (2, {"text": 'one, two\nthree "3"\n\nfour', "label": "a"}),
        (6, {"text": "five", "label": "b"}),
        (7, {"text": "six\nseven", "label": "c"}),
        (9, {"text": "eight", "label": "d"}),
    ]


def test_a_quotation_mark_inside_a_csv_field_is_a_character(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text('text,label\na 5" pipe,x\n')
    assert read_rows(path)[0].values == {"text": 'a 5" pipe', "label": "x"}


def test_a_quotation_mark_in_tsv_is_a_character(tmp_path: Path) -> None:
    path = tmp_path / "data.tsv"
    path.write_text('text\tlabel\n"never closed\ta\n"closed"\tb\n""\tc, d\n')
    assert [row.values["text"] for row in read_rows(path)] == ['"never closed', '"closed"', '""']
    assert [row.line for row in read_rows(path)] == [2, 3, 4]


@pytest.mark.parametrize(("ending", "mark"), [(".csv", ","), (".tsv", "\t")])
def test_blanks_around_column_names_are_dropped_and_around_values_kept(tmp_path: Path, ending: str, mark: str) -> None:
    path = tmp_path / f"data{ending}"
    path.write_text(f"text {mark} label\n one {mark} a\n")
    assert read_rows(path)[0].values == {"text": " one ", "label": " a"}


def test_a_csv_field_may_be_longer_than_the_standard_library_allows_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text(f"text,label\n{'x' * 200_000},a\n")
    assert len(read_rows(path)[0].values["text"]) == 200_000


# Values


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("3.0", "3.0"), ("", ""), (3, "3"), (-7, "-7"), (3.0, "3"), (-0.0, "0"), (2.5, "2.5"), (1e9, "1000000000"),
        (True, "true"), (False, "false"), (["a", 1], '["a", 1]'), ({"ä": None}, '{"ä": null}'), (float("nan"), "nan"),
        (float("inf"), "inf"), (b"gr\xc3\xb6\xc3\x9fer", "größer"), (b"a\xff", "a\\xff"), (Decimal("1.50"), "1.50"),
        (datetime.date(2024, 5, 1), "2024-05-01"), ([datetime.date(2024, 5, 1), b"x"], '["2024-05-01", "x"]'),
    ],
    ids=repr,
)  # fmt: skip
def test_a_value_is_shown_as_text(value: object, text: str) -> None:
    assert as_text(value) == text


VALUES = {"int": 3, "whole": 3.0, "float": 2.5, "bool": True, "none": None, "list": ["a", "ö"], "dict": {"k": 1}}
TEXT_OF_VALUES = {
    "int": "3", "whole": "3", "float": "2.5", "bool": "true", "list": '["a", "ö"]', "dict": '{"k": 1}',
}  # fmt: skip


def test_jsonl_values_are_text_and_null_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(VALUES))
    assert read_rows(path) == [(1, TEXT_OF_VALUES)]


def test_parquet_values_are_text_and_null_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "data.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([VALUES]), path)
    assert read_rows(path) == [(1, TEXT_OF_VALUES)]


def test_parquet_columns_without_a_type_of_text_are_read_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "data.parquet"
    row = {"text": b"gr\xc3\xb6\xc3\x9fer", "nested": {"day": datetime.date(2024, 5, 1), "image": b"\x89PNG"}}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), path)
    assert read_rows(path)[0].values == {"text": "größer", "nested": '{"day": "2024-05-01", "image": "\\\\x89PNG"}'}


def test_a_folder_named_like_a_column_adds_none_to_parquet(tmp_path: Path) -> None:
    folder = tmp_path / "label=3"
    folder.mkdir()
    write_parquet(folder / "data.parquet", ROWS)
    assert read_rows(folder / "data.parquet")[0].values == ROWS[0]


# What is refused


@pytest.mark.parametrize("name", ["data.jsonl", "data.csv", "data.tsv", "data.parquet", "data", "no/folder.csv"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    assert "there is no such file" in refused(tmp_path / name)


@pytest.mark.parametrize("name", ["data", "data.csv"])
def test_a_folder_is_named_as_one(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    assert "is a folder" in refused(tmp_path / name)


@pytest.mark.parametrize("name", ["data.yaml", "data.yaml.gz", "data"])
def test_an_unknown_ending_is_answered_with_the_known_ones(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("text,label\na,b\n")
    message = refused(path)
    assert repr(path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix) in message
    assert all(ending in message for ending in WRITERS)


@pytest.mark.parametrize("text", ["", "\n\n", "\ufeff", " \n"])
@pytest.mark.parametrize("ending", [".jsonl", ".ndjson"])
def test_jsonl_without_an_object_has_no_rows(tmp_path: Path, ending: str, text: str) -> None:
    path = tmp_path / f"data{ending}"
    path.write_text(text, encoding="utf-8")
    assert "has no rows" in refused(path)


@pytest.mark.parametrize("text", ["", "\n\n", "\ufeff", "text{mark}label", "text{mark}label\n\n"])
@pytest.mark.parametrize(("ending", "mark"), [(".csv", ","), (".tsv", "\t")])
def test_a_table_with_nothing_below_its_header_has_no_rows(tmp_path: Path, ending: str, mark: str, text: str) -> None:
    path = tmp_path / f"data{ending}"
    path.write_text(text.format(mark=mark), encoding="utf-8")
    assert "has no rows" in refused(path)


def test_parquet_with_columns_only_has_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "data.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": pyarrow.array([], pyarrow.string())}), path)
    assert "has no rows" in refused(path)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte order mark"])
@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("data.jsonl", '{"a": "ä"}\n{"a": "ä"}\n{"a": "ö"}\n'.encode().replace("ö".encode(), b"\xf6"), 3),
        ("data.csv", b"text,label\nb\xf6se,x\n", 2),
        ("data.tsv", b"gr\xf6\xdfe\tlabel\nx\ty\n", 1),
        ("data.csv", b"a,b\n\xf6,x\n", 2),
        ("data.csv", b"a,b\n1,2\n\xf6\n", 3),
    ],
)
def test_a_file_that_is_not_utf_8_is_refused_at_its_line(
    tmp_path: Path, name: str, text: bytes, line: int, mark: bytes
) -> None:
    path = tmp_path / name
    path.write_bytes(mark + text)
    assert "is not UTF-8 (byte 0xf6)" in refused(path, line)


def test_a_file_in_utf_16_is_read_by_its_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("text,label\nä,b\n", encoding="utf-16")
    assert read_rows(path) == [Row(2, {"text": "ä", "label": "b"})]


def test_a_file_from_windows_is_answered_with_the_command_that_converts_it(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_bytes("text,label\nschön,b\n".encode("cp1252"))
    assert "iconv -f WINDOWS-1252 -t UTF-8 data.csv > utf8-data.csv" in refused(path, 2)


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
@pytest.mark.parametrize("first", ["", "sep={}\n"], ids=["plain", "sep"])
def test_a_csv_may_have_other_delimiters(tmp_path: Path, delimiter: str, first: str) -> None:
    """Excel writes semicolons where a comma is the decimal sign, and a line that says so."""
    path = tmp_path / "data.csv"
    rows = [("text", "label"), ("one, two", "a"), (f"with {delimiter} in it", "b")]
    with path.open("w", newline="", encoding="utf-8") as file:
        file.write(first.format(delimiter))
        csv.writer(file, delimiter=delimiter).writerows(rows)
    line = 3 if first else 2
    expected = [Row(line + i, dict(zip(rows[0], row, strict=True))) for i, row in enumerate(rows[1:])]
    assert read_rows(path) == expected


def test_a_delimiter_is_found_in_the_head_of_a_long_file(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("text;label\n" + f"{'long, ' * 9000};a\n" * 3)
    assert [row.values["label"] for row in read_rows(path)] == ["a"] * 3


def test_a_csv_of_one_column_keeps_its_semicolons(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("text\none; two\nthree\n")
    assert [row.values["text"] for row in read_rows(path)] == ["one; two", "three"]


@pytest.mark.parametrize(
    "text", ['[{"text": "a", "n": 1}, {"text": "b"}]', '{"data": [{"text": "a", "n": 1}, {"text": "b"}]}']
)
def test_a_json_file_is_a_list_of_objects_or_lines(tmp_path: Path, text: str) -> None:
    path = tmp_path / "data.json"
    path.write_text(text)
    assert read_rows(path) == [Row(1, {"text": "a", "n": "1"}), Row(2, {"text": "b"})]
    path.write_text('{"text": "a"}\n{"text": "b"}\n')
    assert [row.values["text"] for row in read_rows(path)] == ["a", "b"]


@pytest.mark.parametrize("ending", TEXTS)
def test_a_compressed_file_is_read_as_what_is_in_it(tmp_path: Path, ending: str) -> None:
    plain = tmp_path / f"data{ending}"
    WRITERS[ending](plain, ROWS)
    packed = plain.with_name(f"{plain.name}.gz")
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert read_rows(packed) == read_rows(plain)
    packed.write_bytes(packed.read_bytes()[:-12])
    assert "cut off" in refused(packed)
    packed.write_bytes(b"text,label")
    assert "cannot be read" in refused(packed)


def test_lines_of_fasttext_are_texts_and_labels(tmp_path: Path) -> None:
    path = tmp_path / "data.txt"
    path.write_text("__label__good a fine film\n\n__label__bad dull\n")
    assert read_rows(path) == [
        Row(1, {"text": "a fine film", "label": "good"}),
        Row(3, {"text": "dull", "label": "bad"}),
    ]
    for text, message in (("a fine film\n", "__label__NAME"), ("__label__a __label__b both\n", "several labels")):
        path.write_text(text)
        assert message in refused(path, 1)


def test_a_spreadsheet_is_answered_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "data.xlsx"
    path.write_bytes(b"PK")
    assert "save it as CSV" in refused(path)


def test_a_file_without_a_header_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("the box is late,bad\n" + "all fine,good\nlate again,bad\n" * 3)
    assert "its first line says 'bad', which stands 3 times below it as well" in refused(path, 1)
    path.write_text("text,label\na,label\nb,good\n")  # a value may be the column's name where values do not repeat
    assert len(read_rows(path)) == 2


def test_nan_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"text": "a", "label": NaN}\n')
    assert read_rows(path) == [Row(1, {"text": "a"})]
    table = pyarrow.table({"text": ["a"], "label": pyarrow.array([float("nan")], from_pandas=False)})
    pyarrow.parquet.write_table(table, tmp_path / "data.parquet")
    assert read_rows(tmp_path / "data.parquet") == [Row(1, {"text": "a"})]


@pytest.mark.parametrize(
    "bad",
    ['{"a": 1', '{"a": 1} {"a": 2}', "{'a': 1}", "text,label", '{"a": ' + "9" * 5000 + "}", "[" * 100_000],
    ids=["open", "two", "quotes", "csv", "number", "depth"],
)
def test_a_line_that_is_not_json_is_refused(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"a": 1}\n\n' + bad + '\n{"a": 1}\n')
    assert "is not JSON" in refused(path, 3)


@pytest.mark.parametrize(("bad", "kind"), [("[1, 2]", "list"), ('"text"', "str"), ("3", "int"), ("null", "NoneType")])
def test_a_line_of_json_that_is_no_object_is_refused(tmp_path: Path, bad: str, kind: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"a": 1}\n' + bad + "\n")
    assert f"expected a JSON object, found {kind}" in refused(path, 2)


@pytest.mark.parametrize("value", ['"late \\ud83d"', '["\\ud83d"]', '{"\\ude00": 1}'])
def test_half_a_character_in_json_is_refused_before_a_tokenizer_fails_on_it(tmp_path: Path, value: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"a": "whole \\ud83d\\ude00"}\n{"a": ' + value + "}\n")
    assert "half of a character" in refused(path, 2)


@pytest.mark.parametrize(
    ("name", "text", "line", "found"),
    [
        ("data.csv", "text,label\na,b\nc\n", 3, 1),
        ("data.csv", "text,label\na, well, b,c\n", 2, 4),
        ("data.csv", 'text,label\n"a\n\nb",c\n"d\ne",f,g\n', 5, 3),
        ("data.csv", "text,label\n\na\n", 3, 1),
        ("data.tsv", "text\tlabel\na\tb\nc\td\te\n", 3, 3),
        ("data.tsv", "text\tlabel\na,b\n", 2, 1),
    ],
)
def test_a_row_of_another_width_is_refused_with_the_columns(
    tmp_path: Path, name: str, text: str, line: int, found: int
) -> None:
    path = tmp_path / name
    path.write_text(text)
    assert f"expected 2 columns (text, label), found {found}" in refused(path, line)


@pytest.mark.parametrize(
    ("header", "line"), [("text,text", 1), ("text,", 1), (",text,", 1), ("text, text ", 1), ("\n\na,a", 3)]
)
def test_columns_that_are_not_named_once_each_are_refused(tmp_path: Path, header: str, line: int) -> None:
    path = tmp_path / "data.csv"
    path.write_text(f"{header}\na,b\n")
    assert "must name the columns, each once" in refused(path, line)


def test_the_index_that_pandas_writes_first_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text(",text,label\n0,hello,good\n1,bye,bad\n")
    assert [row.values for row in read_rows(path)] == [
        {"text": "hello", "label": "good"},
        {"text": "bye", "label": "bad"},
    ]
    path.write_text(",text,label\n0,hello\n")
    assert "expected 2 columns (text, label), found 1" in refused(path, 2)


def test_parquet_columns_that_are_not_named_once_each_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.parquet"
    pyarrow.parquet.write_table(pyarrow.table([["a"], ["b"]], names=["text", "text"]), path)
    assert "named once each" in refused(path)


@pytest.mark.parametrize(
    ("text", "line"),
    [('text,label\na,b\n"c,d\ne,f\n', 3), ('text,label\n"a\nb",c\n"d,e\n', 4), ('text,label\n"a"b,c\n', 2)],
)
def test_a_quote_that_never_ends_or_ends_too_soon_is_refused_where_its_row_begins(
    tmp_path: Path, text: str, line: int
) -> None:
    path = tmp_path / "data.csv"
    path.write_text(text)
    assert "is malformed" in refused(path, line)


@pytest.mark.parametrize(
    "damaged",
    [lambda whole: b"", lambda whole: whole[:-10], lambda whole: b"text,label\na,b\n", lambda whole: whole[:4] * 2],
    ids=["empty", "cut", "csv", "no inside"],
)
def test_what_is_not_parquet_is_refused(tmp_path: Path, damaged: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "data.parquet"
    write_parquet(path, ROWS)
    path.write_bytes(damaged(path.read_bytes()))
    message = refused(path)
    assert "is not Parquet" in message
    assert "\n" not in message


def test_parquet_that_is_damaged_inside_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.parquet"
    write_parquet(path, ROWS)
    data = bytearray(path.read_bytes())
    data[-60:-20] = b"\xff" * 40  # in the footer
    path.write_bytes(data)
    assert re.search("is not Parquet|cannot be read", refused(path))


def test_parquet_text_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.parquet"
    texts = pyarrow.array([b"b\xf6se"]).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), path)
    assert "0xf6" in refused(path)


def test_a_file_that_may_not_be_opened_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def locked(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    path = tmp_path / "data.csv"
    write_csv(path, ROWS)
    monkeypatch.setattr(Path, "read_bytes", locked)
    assert "cannot be read: Permission denied" in refused(path)
