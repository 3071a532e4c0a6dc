"""The prompt store: names from a folder, changed while requests come, and never half."""

import asyncio
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from softprompt.errors import BadArtefact, BadInput, PromptMismatch
from softprompt.serving import prompt_store as store_module
from softprompt.serving.engine.engine import Engine
from softprompt.serving.engine.requests import Rank
from softprompt.serving.limits import Limits
from softprompt.serving.preprocess import Preprocessor
from softprompt.serving.prompt_store import PromptStore
from softprompt.serving.store_folder import UnknownPrompt
from tests import tiny
from tests.served import SMALL, TEAMS, running, write_prompt


def parts(folder: Path) -> tuple[bytes, bytes]:
    return (folder / "prompt.json").read_bytes(), (folder / "prompt.safetensors").read_bytes()


def rows(store: PromptStore, name: str) -> torch.Tensor:
    return store.get(name).prompt.prompt(None)


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., tuple[bytes, bytes]]:
    """Card and tensors of a prompt that stands elsewhere."""

    def make(seed: int, backbone: Any = None, **settings: Any) -> tuple[bytes, bytes]:
        there = tmp_path / "elsewhere" / str(seed)
        return parts(write_prompt(there, backbone or tiny.backbone("llama"), seed=seed, **settings))

    return make


@pytest.fixture
def store(tmp_path: Path) -> PromptStore:
    backbone = tiny.backbone("llama")
    write_prompt(tmp_path / "served" / "first", backbone, choices=TEAMS)
    (tmp_path / "served" / "unfinished").mkdir()
    (tmp_path / "served" / "notes.txt").write_text("not a prompt")
    return PromptStore(tmp_path / "served", backbone)


def test_names_and_versions_come_and_go(store: PromptStore, made: Any) -> None:
    assert store.names() == ["first"]
    kept = store.get("first")
    assert (kept.entry.version, store.put("first", *made(7)).version, store.put("second", *made(8)).version) == (
        1,
        2,
        1,
    )
    assert store.names() == ["first", "second"]
    assert not torch.equal(rows(store, "first"), kept.prompt.prompt(None))
    assert store.get("first@2") is store.get("first")
    with pytest.raises(UnknownPrompt, match="'first@1' here; version 2 of it is served"):
        store.get("first@1")
    store.remove("first")
    assert store.names() == ["second"]
    with pytest.raises(UnknownPrompt):
        store.remove("first")
    again = store.put("first", *made(9))
    assert again.version == 1
    assert again.key != kept.entry.key
    # What a client replaced of a training run was not deleted.
    assert len(list((store.folder.path / ".replaced").iterdir())) == 1


def test_what_other_processes_do_to_the_folder_is_seen(store: PromptStore, tmp_path: Path) -> None:
    backbone = tiny.backbone("llama")
    write_prompt(store.folder.path / "new", backbone, seed=3)
    assert store.names() == ["first", "new"]
    before = rows(store, "new")
    write_prompt(store.folder.path / "new", backbone, seed=4)  # trained again
    assert not torch.equal(rows(store, "new"), before)
    shutil.rmtree(store.folder.path / "new")
    with pytest.raises(UnknownPrompt):
        store.get("new")


def test_names_are_listed_without_opening_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny.backbone("llama")
    write_prompt(tmp_path / "p0", backbone)
    for i in range(1, 50):
        os.symlink(tmp_path / "p0", tmp_path / f"p{i}")
    opened: list[Path] = []
    load = store_module.load_prompt
    monkeypatch.setattr(store_module, "load_prompt", lambda folder: opened.append(folder) or load(folder))
    monkeypatch.setattr(store_module, "read_card", lambda folder: opened.append(folder))
    store = PromptStore(tmp_path, backbone, memory=1000)
    assert len(store) == 50
    assert not opened
    for i in range(50):
        store.get(f"p{i}")
    assert len(opened) == 50
    assert sum(loaded.bytes for loaded in store._loaded.values()) == store._bytes <= 1000


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../up", "a/b", "/etc", "base", "a@2", ".hidden", "a b", "a\0b", "é", "x" * 101, "-a"]
)
def test_no_name_leaves_the_folder(store: PromptStore, made: Any, name: str) -> None:
    before = sorted(path.name for path in store.folder.path.parent.rglob("*"))
    with pytest.raises(BadInput, match="cannot be a prompt's name"):
        store.put(name, *made(1))
    with pytest.raises(UnknownPrompt):
        store.get(name)
    with pytest.raises(UnknownPrompt):
        store.remove(name)
    shutil.rmtree(store.folder.path.parent / "elsewhere")
    assert sorted(path.name for path in store.folder.path.parent.rglob("*")) == before


def _changed(card: bytes, **changes: Any) -> bytes:
    return json.dumps(json.loads(card) | changes).encode()


def test_what_is_no_prompt_is_refused_and_leaves_nothing(store: PromptStore, made: Any) -> None:
    card, tensors = made(1)
    bad: list[tuple[bytes, bytes, str]] = [
        (b"{", tensors, "not a JSON object"),
        (b"[]", tensors, "not a valid prompt.json"),
        (b"[" * 100_000, tensors, "not a JSON object"),
        (_changed(card, kind="other"), tensors, "kind"),
        (_changed(card, length=5), tensors, "the tensors holds"),
        (_changed(card, length=10**12), tensors, "at most 65536"),
        (_changed(card, length=-1), tensors, "at most 65536"),
        (_changed(card, template="no column"), tensors, "no column in braces"),
        (_changed(card, kind="input"), tensors, "of kind 'input' and has no folded tensors"),
        (_changed(card, kind="network"), tensors, "of kind 'network' and has no folded tensors"),
        (_changed(card, format=2), tensors, "format 2"),
        (card, tensors[:-3], "truncated or no safetensors"),
        (card, b"\x80\x04\x95pickle", "truncated or no safetensors"),
        (card, tensors[:-4] + b"\0\0\xc0\x7f", "not finite"),
    ]
    before = sorted(path.name for path in store.folder.path.iterdir())
    for one, other, message in bad:
        with pytest.raises(BadInput, match=message) as refused:
            store.put("second", one, other)
        assert str(store.folder.path) not in str(refused.value)
    with pytest.raises(PromptMismatch, match="tuned for tiny-gpt2"):
        store.put("second", *made(2, tiny.backbone("gpt2")))
    assert sorted(path.name for path in store.folder.path.iterdir()) == before


def test_a_prompt_of_another_backbone_and_a_damaged_one_are_refused_when_asked(store: PromptStore) -> None:
    write_prompt(store.folder.path / "foreign", tiny.backbone("gpt2"))
    write_prompt(store.folder.path / "damaged", tiny.backbone("llama"))
    baseline = write_prompt(store.folder.path / "baseline", tiny.backbone("llama"))
    card, tensors = parts(baseline)
    (baseline / "network.safetensors").write_bytes(tensors)
    (baseline / "prompt.json").write_bytes(_changed(card, kind="network", stored=4 * tiny.D))
    with pytest.raises(BadArtefact, match="is a baseline"):
        store.get("baseline")
    (store.folder.path / "damaged" / "prompt.safetensors").write_bytes(b"nothing")
    with pytest.raises(PromptMismatch, match="not for the backbone served here, tiny-llama"):
        store.get("foreign")
    with pytest.raises(BadArtefact, match="no safetensors file"):
        store.get("damaged")
    assert store.card("damaged")[1].kind == "prompt"


@pytest.mark.parametrize("moment", [0, 1, 3, 4, 5, 7, 9])
def test_a_put_that_is_killed_leaves_the_old_prompt_or_the_new_one(
    store: PromptStore, made: Any, moment: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("first", *made(5))
    old, (card, tensors) = rows(store, "first"), made(6)
    child = os.fork()
    if child == 0:  # kill -9 at a file operation
        left = moment

        def deadly(work: Callable[..., Any]) -> Callable[..., Any]:
            def done(*given: Any, **more: Any) -> Any:
                nonlocal left
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1
                return work(*given, **more)

            return done

        os.fsync, os.rename = deadly(os.fsync), deadly(os.rename)
        shutil.rmtree = deadly(shutil.rmtree)
        store.put("first", card, tensors)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) == (moment < 9)
    found = PromptStore(store.folder.path, store.backbone)
    assert found.names() == ["first"]
    new = not torch.equal(rows(found, "first"), old)
    assert new == (moment >= 4)
    assert [path.name for path in found.folder.path.iterdir() if path.name.startswith((".incoming", ".removed"))] == []
    found.put("first", card, tensors)
    assert [path.name for path in found.folder.path.glob("first*")] == [f"first@{4 if new else 3}"]


def test_answers_under_load_are_of_one_version_and_of_the_newest(store: PromptStore, made: Any) -> None:
    engine = Engine(store.backbone, SMALL)
    preprocessor = Preprocessor(engine, store, Limits())
    versions = [made(seed, choices=TEAMS) for seed in range(20, 26)]

    async def ask() -> tuple[float, ...]:
        first = preprocessor.load("first")
        prepared = next(preprocessor.prepare_ranking(first, ["the parcel is late"], raw=False, choices=None))
        request = Rank(prepared.question, prepared.ranking)
        engine.submit(request)
        return tuple(round(score, 4) for score in await engine.rank(request))

    async def load() -> tuple[list[tuple[float, ...]], list[tuple[float, ...]]]:
        seen: list[tuple[float, ...]] = []
        newest: list[tuple[float, ...]] = []
        done = False

        async def client() -> None:
            while not done:
                seen.append(await ask())

        async with running(engine):
            clients = [asyncio.ensure_future(client()) for _ in range(4)]
            for version in versions:
                await asyncio.get_running_loop().run_in_executor(None, store.put, "first", *version)
                newest.append(await ask())  # never the one before
            done = True
            await asyncio.gather(*clients)
            store.remove("first")
            with pytest.raises(UnknownPrompt):
                await ask()
        return seen, newest

    seen, newest = asyncio.run(load())
    assert len(set(newest)) == len(versions)
    first = set(seen) - set(newest)
    assert len(first) <= 1  # the one that was there before; nothing in between two versions


def test_several_processes_change_one_name_and_none_sees_it_missing_mixed_or_old(store: PromptStore, made: Any) -> None:
    sent = {seed: made(seed) for seed in range(30, 36)}
    wanted = {seed: torch.randn(4, tiny.D, generator=torch.Generator().manual_seed(seed)) for seed in sent}
    store.put("first", *sent[30])
    children = []
    for i in range(2):
        child = os.fork()
        if child == 0:
            own = PromptStore(store.folder.path, store.backbone)
            try:
                versions = [own.put("first", *sent[seed]).version for seed in [*sent][i::2] * 4]
                os._exit(0 if sorted(set(versions)) == versions else 1)
            finally:
                os._exit(2)
        children.append(child)
    versions, statuses = [], []
    while len(statuses) < len(children):
        found = store.get("first")
        assert torch.equal(found.prompt.prompt(None), wanted[found.card.seed])
        versions.append(found.entry.version)
        assert store.card("first")[1].seed in sent
        done, status = os.waitpid(-1, os.WNOHANG)
        statuses += [status] if done else []
    assert statuses == [0, 0]
    assert versions == sorted(versions)
    assert store.get("first").entry.version == 26  # two times 12 puts after the first one
    assert [path.name for path in store.folder.path.glob("first*")] == ["first@26"]
