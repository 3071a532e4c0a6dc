"""The folder of prompts on disk: it needs no card that can be read, and no backbone."""

import os
import shutil
import socket
import time
from pathlib import Path

import pytest

from softprompt.errors import BadInput
from softprompt.serving.store_folder import (
    CARD,
    FolderUnreadable,
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


def test_a_link_that_leads_nowhere_is_listed_as_broken_and_passed_over(tmp_path: Path) -> None:
    path, nowhere = tmp_path / "served", tmp_path / "nowhere"
    path.mkdir()
    (path / "old").symlink_to(nowhere)
    (path / "round").symlink_to(path / "round")
    (path / "half").mkdir()
    (path / "half" / CARD).symlink_to(tmp_path / "no-card")
    (path / "training").mkdir()
    (path / "notes.txt").write_text("no run")
    folder = StoreFolder(path, lambda entry: None)  # once, this never returned
    assert folder.names() == []
    assert folder.broken() == {
        "old": "it is a link that leads nowhere",
        "round": "it cannot be read: Too many levels of symbolic links",
        "half": f"its {CARD} is a link that leads nowhere",
    }
    with pytest.raises(UnknownPrompt, match="There is no prompt 'old' here: it is a link that leads nowhere"):
        folder.entry("old")
    upload(folder, "good")
    shutil.rmtree(path / "good@1")
    (path / "good@1").symlink_to(nowhere)  # while it is served
    with pytest.raises(UnknownPrompt, match="leads nowhere"):
        folder.entry("good")
    write_and_sync(nowhere, {CARD: b"{}"})
    assert folder.names() == ["good", "old"]
    assert sorted(folder.broken()) == ["half", "round"]


def test_a_run_that_ends_while_the_folder_is_served_is_served(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    past = time.time_ns() - 10**9
    os.utime(tmp_path, ns=(past, past))
    folder = StoreFolder(tmp_path, lambda entry: None)
    with pytest.raises(UnknownPrompt):
        folder.entry("run")
    (tmp_path / "run" / CARD).write_text("{}")
    os.utime(tmp_path, ns=(past, past))  # what happens inside a run's folder does not change that of the folder of runs
    assert folder.entry("run").name == "run"
    assert folder.names() == ["run"]


def test_a_folder_that_cannot_be_read_says_so_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "served"
    path.mkdir()
    folder = StoreFolder(path, lambda entry: None)
    upload(folder, "good")
    path.rename(tmp_path / "away")
    for ask in (folder.names, folder.broken, lambda: folder.entry("good")):
        with pytest.raises(FolderUnreadable, match="cannot be read: No such file or directory"):
            ask()
    (tmp_path / "away").rename(path)
    assert folder.entry("good").name == "good"


def test_a_folder_that_never_stands_still_is_not_listed_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = StoreFolder(tmp_path, lambda entry: None)
    monkeypatch.setattr(StoreFolder, "_list", lambda self: False)
    os.utime(tmp_path, (1, 1))
    with pytest.raises(FolderUnreadable, match="changes faster than it can be listed"):
        folder.names()


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is not a folder"):
        StoreFolder(tmp_path / "none", lambda entry: None)
