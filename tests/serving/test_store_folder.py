"""The folder of prompts on disk: it needs no card that can be read, and no backbone."""

import os
import socket
from pathlib import Path

import pytest

from softprompt.errors import BadInput
from softprompt.serving.store_folder import (
    CARD,
    StoreEntry,
    StoreFolder,
    UnknownPrompt,
    is_left_over,
    parse_folder_name,
    write_and_sync,
)


def upload(folder: StoreFolder, name: str, card: bytes = b"not even JSON") -> StoreEntry:
    incoming = folder.incoming()
    write_and_sync(incoming, {CARD: card})
    return folder.add(incoming, name)


@pytest.mark.parametrize(
    ("item", "parsed"),
    [
        ("refunds", ("refunds", 1)),
        ("refunds@12", ("refunds", 12)),
        ("refunds@0", ("refunds", 0)),
        ("refunds@", ("refunds", 0)),
        ("refunds@1x", ("refunds", 0)),
        ("base", ("base", 0)),
        (".incoming-x", (".incoming-x", 0)),
    ],
)
def test_a_folders_name_holds_name_and_version(item: str, parsed: tuple[str, int]) -> None:
    assert parse_folder_name(item) == parsed


def test_the_newest_version_is_current_and_older_entries_are_forgotten(tmp_path: Path) -> None:
    forgotten: list[StoreEntry] = []
    folder = StoreFolder(tmp_path, forgotten.append)
    assert [upload(folder, "a").version, upload(folder, "a", b"other").version] == [1, 2]
    assert (folder.names(), len(folder), folder.entry("a@2").version) == (["a"], 1, 2)
    assert [entry.version for entry in forgotten] == [1]
    before = folder.entry("a")
    (tmp_path / "a@2" / CARD).write_bytes(b"changed in place")
    assert folder.entry("a").key != before.key
    folder.remove("a")
    assert (folder.names(), len(forgotten), list(tmp_path.iterdir())) == ([], 3, [])
    with pytest.raises(UnknownPrompt, match="There is no prompt 'a' here"):
        folder.entry("a")


def test_what_a_dead_process_left_is_removed_at_the_start(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    machine = socket.gethostname()
    dead, own = (tmp_path / f".incoming-{machine}-{process}-abc" for process in (child, os.getpid()))
    other = tmp_path / ".removed-elsewhere-1-abc"
    for path in (dead, own, other):
        path.mkdir()
    assert [is_left_over(path) for path in (dead, own, other)] == [True, False, False]
    os.utime(other, (0, 0))  # more than a day ago
    StoreFolder(tmp_path, lambda entry: None)
    assert list(tmp_path.iterdir()) == [own]


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is not a folder"):
        StoreFolder(tmp_path / "none", lambda entry: None)
