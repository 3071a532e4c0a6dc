"""Token ids remembered on disk: always those of the tokenizer, whatever became of the files."""

import errno
import itertools
import json
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from tokenizers import AddedToken, processors
from transformers import PreTrainedTokenizerFast

import softprompt
from softprompt.backbones import token_cache
from softprompt.backbones.token_cache import Store, TextIds, kept_bytes, tokenizer_fingerprint, tokens_folder, trim
from softprompt.errors import BadInput
from softprompt.runs.predict import evaluate, predict
from tests import tiny
from tests.prompts import EXAMPLES

WORDS = list(dict.fromkeys(tiny.WORDS.split()))
ROW = 32
"""Bytes of a row on disk beside its ids."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache that is switched on."""
    monkeypatch.setenv("SOFTPROMPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(token_cache.SWITCH)
    return tmp_path / "cache"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that reach the tokenizer."""
    found: list[str] = []
    before = TextIds.tokenize

    def spy(self: TextIds, texts: Sequence[str]) -> Any:
        found.extend(texts)
        return before(self, texts)

    monkeypatch.setattr(TextIds, "tokenize", spy)
    return found


def some_texts(count: int, seed: int = 0) -> list[str]:
    """Different texts of one to nine words, and the empty one."""
    draw = random.Random(seed)
    found = {"": None}
    while len(found) < count:
        found[" ".join(draw.choices(WORDS, k=draw.randint(1, 9)))] = None
    return list(found)


def new_tokenizer() -> Any:
    """Like tiny.tokenizer, but it may be changed."""
    backend = tiny.tokenizer(eos=True).backend_tokenizer.from_str(tiny.tokenizer(eos=True).backend_tokenizer.to_str())
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>", pad_token="<pad>")


def remembering(tokenizer: Any | None = None, *, special: bool = True) -> TextIds:
    made = TextIds(tokenizer or new_tokenizer(), special=special)
    made.remember()
    return made


def fill(texts: Sequence[str], tokenizer: Any | None = None) -> None:
    made = remembering(tokenizer)
    made.read(texts)
    made.keep()


def files(cache: Path) -> list[Path]:
    return sorted(path for path in cache.rglob("*") if path.is_file())


def assert_right(found: TextIds, texts: Sequence[str]) -> None:
    for text in texts:
        assert found(text) == found.tokenizer(text, add_special_tokens=found.special).input_ids, text


TEXTS = some_texts(2500)


# The same ids


@pytest.mark.parametrize("special", [True, False])
def test_a_second_run_reads_the_same_ids_and_tokenises_nothing(asked: list[str], special: bool) -> None:
    first = remembering(special=special)
    first.read(TEXTS)
    assert asked == TEXTS
    assert_right(first, TEXTS)
    first.keep()
    asked.clear()
    second = remembering(special=special)
    second.read(TEXTS[:1000])
    assert_right(second, TEXTS)
    assert asked == []


def test_a_run_tokenises_only_what_it_asks_for_and_only_once(asked: list[str]) -> None:
    ids = remembering()
    ids.read(TEXTS[:10])
    ids.read(TEXTS[5:15])
    assert ids(TEXTS[20]) == ids(TEXTS[20])
    assert asked == [*TEXTS[:15], TEXTS[20]]


def test_with_and_without_special_tokens_are_kept_apart() -> None:
    fill(TEXTS)
    plain = remembering(special=False)
    assert plain("the parcel") != remembering()("the parcel")
    assert_right(plain, TEXTS)


CHANGES: dict[str, Callable[[Any], object]] = {
    "a word": lambda tokenizer: tokenizer.add_tokens(["the parcel"]),
    "a special token": lambda tokenizer: tokenizer.add_special_tokens({"bos_token": "hello"}),
    "end of texts": lambda tokenizer: setattr(
        tokenizer.backend_tokenizer, "post_processor", processors.TemplateProcessing("$A")
    ),
    "split specials": lambda tokenizer: setattr(tokenizer, "split_special_tokens", True),
    "normalised": lambda tokenizer: tokenizer.add_tokens([AddedToken("late", lstrip=True, normalized=False)]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_tokenizer_is_another_one(change: str) -> None:
    fill(TEXTS)
    changed = new_tokenizer()
    CHANGES[change](changed)
    assert tokenizer_fingerprint(changed, True) != tokenizer_fingerprint(new_tokenizer(), True)
    assert_right(remembering(changed), [*TEXTS, "the parcel is late </s> hello"])


def test_a_tokenizer_that_changes_while_it_is_used_leaves_nothing_behind(cache: Path) -> None:
    ids = remembering()
    ids.read(TEXTS)
    ids.tokenizer.add_tokens(["the parcel"])
    ids.keep()
    assert files(cache) == []


def test_what_others_ask_of_a_tokenizer_does_not_change_its_fingerprint() -> None:
    tokenizer = new_tokenizer()
    before = tokenizer_fingerprint(tokenizer, True)
    tokenizer(TEXTS[:3], padding=True, truncation=True, max_length=2)
    assert tokenizer_fingerprint(tokenizer, True) == before


def test_a_tokenizer_of_unknown_ways_is_not_remembered(cache: Path) -> None:
    class Own(PreTrainedTokenizerFast):
        pass

    class Slow:
        def __call__(self, texts: list[str], **_: Any) -> Any:
            return type("Encoded", (), {"input_ids": [[len(text)] for text in texts]})

    own = Own(tokenizer_object=new_tokenizer().backend_tokenizer, unk_token="<unk>", eos_token="</s>")
    for tokenizer in (own, Slow()):
        assert tokenizer_fingerprint(tokenizer, True) is None
        fill(TEXTS, tokenizer)
        assert remembering(tokenizer)("abc") == tokenizer(["abc"]).input_ids[0]
    assert files(cache) == []


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch, asked: list[str]) -> None:
    monkeypatch.setattr(token_cache, "MEMORY", 50_000)
    monkeypatch.setattr(token_cache, "FEW", 10)
    ids = remembering()
    for begin in range(0, len(TEXTS), 16):
        ids.read(TEXTS[begin : begin + 16])
        assert len(ids._memory) < 400
    assert_right(ids, TEXTS)
    assert sorted(asked) == sorted(TEXTS), "what left memory was tokenised again"


# Files


def test_a_file_holds_what_is_documented(cache: Path) -> None:
    fill(TEXTS)
    (path,) = files(cache)
    assert path.parent.parent == cache / "tokens"
    assert path.parent.name == tokenizer_fingerprint(new_tokenizer(), True)
    found = load_file(path)
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in found.items() if name != "ids"} == {
        "key": (np.uint8, (2500, 16)), "end": (np.int64, (2500,)), "check": (np.int64, (2500,)),
    }  # fmt: skip
    assert found["ids"].dtype == np.int32
    assert len(found["ids"]) == sum(len(new_tokenizer()(text).input_ids) for text in TEXTS)
    assert kept_bytes() == path.stat().st_size < ROW * 2500 + found["ids"].nbytes + 500


def test_little_is_not_written(cache: Path) -> None:
    fill(TEXTS[: token_cache.FEW - 1])
    assert files(cache) == []


def test_a_backbone_that_was_not_told_to_remember_writes_nothing(cache: Path) -> None:
    ids = TextIds(new_tokenizer())
    ids.read(TEXTS)
    ids.keep()
    assert files(cache) == []


def test_the_switch(cache: Path, monkeypatch: pytest.MonkeyPatch, asked: list[str]) -> None:
    monkeypatch.setenv(token_cache.SWITCH, "0")
    fill(TEXTS)
    assert files(cache) == []
    monkeypatch.setenv(token_cache.SWITCH, "1.5")
    fill(TEXTS)
    assert len(files(cache)) == 1
    monkeypatch.setenv(token_cache.SWITCH, "0")
    asked.clear()
    assert_right(remembering(), TEXTS[:5])
    assert asked == TEXTS[:5], "a cache that is off was read"
    for wrong in ("yes", "nan", "inf"):
        monkeypatch.setenv(token_cache.SWITCH, wrong)
        with pytest.raises(BadInput, match=f"SOFTPROMPT_TOKEN_CACHE='{wrong}': expected gigabytes, or 0"):
            remembering()


def damage(path: Path, at: float, how: str) -> None:
    """Truncate a file at a share of it, or turn over a byte there."""
    data = bytearray(path.read_bytes())
    place = min(int(at * len(data)), len(data) - 1)
    path.write_bytes(data[:place] if how == "cut" else data[:place] + bytes([data[place] ^ 0x41]) + data[place + 1 :])


PLACES = [0.0, 1e-5, 5e-4, 0.01, 0.1, 0.2, 0.3, 0.45, 0.6, 0.75, 0.9, 0.999999]


@pytest.mark.parametrize(("at", "how"), [*itertools.product(PLACES, ["cut", "turned"])])
def test_a_damaged_file_is_made_anew(cache: Path, at: float, how: str) -> None:
    fill(TEXTS)
    (path,) = files(cache)
    good = path.read_bytes()
    damage(path, at, how)
    assert path.read_bytes() != good
    ids = remembering()
    ids.read(TEXTS)
    assert_right(ids, TEXTS)
    ids.keep()
    assert [file.read_bytes() for file in files(cache)] == [good]


def test_a_damaged_row_is_noticed() -> None:
    """The check itself: the same damage, with the check left out, gives wrong ids."""
    fill(TEXTS)
    folder = tokens_folder()
    assert folder
    (path,) = files(folder)
    damage(path, 0.6, "turned")  # among the ids
    (file,) = Store(path.parent)._files.values()
    begins = [0, *file.end.tolist()]
    keys = [bytes(key).ljust(16, b"\0") for key in file.key]
    right = {token_cache._key(text): new_tokenizer()(text).input_ids for text in TEXTS}
    read = {key: file.ids[a:b].tolist() for key, a, b in zip(keys, begins, begins[1:], strict=False)}
    assert read != right
    with pytest.raises(ValueError, match="is damaged"):
        [file.row(i) for i in range(len(file.key))]


@pytest.mark.parametrize("content", [b"", b"not ours", b"\xff" * 100, json.dumps({}).encode()])
def test_a_file_that_is_not_ours_is_removed(cache: Path, content: bytes) -> None:
    fill(TEXTS)
    (path,) = files(cache)
    stray = path.with_name(f"{'0' * 32}.safetensors")
    stray.write_bytes(content)
    assert_right(remembering(), TEXTS)
    assert files(cache) == [path]


def test_writers_at_once_do_not_lose_each_others_rows(asked: list[str]) -> None:
    both = [some_texts(2200, seed) for seed in (1, 2)]
    one, two = remembering(), remembering()
    one.read(both[0])
    two.read(both[1])  # neither sees the other's
    one.keep()
    two.keep()
    three, four = remembering(), remembering()
    three.read(TEXTS)
    four.read(TEXTS)  # both write the same
    three.keep()
    four.keep()
    assert_right(three, both[1])  # from files that four merged and removed
    asked.clear()
    again = remembering()
    again.read([*both[0], *both[1], *TEXTS])
    assert asked == []
    assert_right(again, [*both[0], *both[1], *TEXTS])


def test_files_stay_few(cache: Path, monkeypatch: pytest.MonkeyPatch, asked: list[str]) -> None:
    monkeypatch.setattr(token_cache, "FEW", 50)
    for begin in range(0, 2500, 50):
        fill(TEXTS[begin : begin + 50])
        assert len(files(cache)) <= 7
    assert asked == TEXTS
    assert_right(remembering(), TEXTS)
    assert asked == TEXTS


def test_large_files_are_left_alone(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_cache, "FEW", 50)
    monkeypatch.setattr(token_cache, "LARGE", 40_000)
    for begin in range(0, 2500, 250):
        fill(TEXTS[begin : begin + 250])
    assert len(files(cache)) > 3
    assert max(path.stat().st_size for path in files(cache)) < 41_000


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    for age, name in enumerate(["new", "used", ".old.safetensors.77.part"]):
        path = tmp_path / "any" / (name if name.endswith(".part") else f"{name}.safetensors")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"0" * 1000)
        os.utime(path, (1000 - age, 1000 - age))
    other = tmp_path / "any" / "notes.txt"
    other.write_text("not ours")
    trim(tmp_path, 2000)
    assert {path.name for path in files(tmp_path)} == {"new.safetensors", "used.safetensors", "notes.txt"}
    trim(tmp_path, 0)
    assert files(tmp_path) == [other]


def test_the_size_is_bounded_and_use_counts(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(TEXTS)
    (first,) = files(cache)
    os.utime(first, (1, 1))
    Store(first.parent)
    assert first.stat().st_mtime > 1, "opening a file is using it"
    other = new_tokenizer()
    other.add_tokens(["another"])
    os.utime(first, (1, 1))
    monkeypatch.setenv(token_cache.SWITCH, str(1.5 * first.stat().st_size / 1e9))
    fill(TEXTS, other)
    (left,) = files(cache)
    assert left != first


# A cache that is not there


def test_a_folder_that_cannot_be_made_is_no_error(cache: Path) -> None:
    cache.write_text("a file where the folder would be")
    fill(TEXTS)
    assert_right(remembering(), TEXTS)
    assert kept_bytes() == 0


def test_a_full_disk_is_no_error_and_leaves_what_there_was(
    cache: Path, monkeypatch: pytest.MonkeyPatch, asked: list[str]
) -> None:
    fill(TEXTS)
    before = files(cache)

    def full(_: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(token_cache, "save_file", full)
    more = some_texts(5000, seed=3)
    fill(more)
    assert files(cache) == before
    asked.clear()
    assert_right(remembering(), [*TEXTS, *more[:50]])
    assert not set(asked) & set(TEXTS)


def test_a_folder_that_may_only_be_read_is_read(monkeypatch: pytest.MonkeyPatch, asked: list[str]) -> None:
    fill(TEXTS)
    monkeypatch.setattr(token_cache, "FEW", 50)
    fill(some_texts(60, seed=4))  # two files

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError("read-only")

    for name in ("utime", "unlink", "replace"):
        monkeypatch.setattr(os, name, refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    monkeypatch.setattr(Path, "mkdir", refuse)
    asked.clear()
    fill([*TEXTS, *some_texts(60, seed=4)])
    assert asked == []
    fill(some_texts(200, seed=5))


def test_without_a_home_there_is_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("SOFTPROMPT_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    fill(TEXTS)
    assert kept_bytes() == 0


# Runs


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_a_second_run_on_a_task_tokenises_no_source(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[str], family: str
) -> None:
    monkeypatch.setattr(token_cache, "FEW", 20)
    model = tiny.save_tiny(family, tmp_path / "model")
    data = tmp_path / "data.jsonl"
    rows = [{"text": text, "label": ("good", "bad")[i % 2]} for i, text in enumerate(some_texts(81)[1:])]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def train(name: str, template: str) -> tuple[int, str]:
        """Sources that reach the tokenizer, and what was answered."""
        asked.clear()
        settings = {"length": 3, "evaluate_every": 2}
        out = tmp_path / name
        softprompt.train(data=data, backbone=model, output=out, template=template, steps=4, batch=4, settings=settings)
        answers = "".join((out / f"predictions-{split}.jsonl").read_text() for split in ("dev", "test"))
        return sum(text.startswith(template[:5]) for text in asked), answers

    count, answers = train("first", "Text: {text} label :")
    assert 30 <= count <= 33, "4 steps of 4, and two splits of 8, each source once; sources that are cut twice"
    assert train("second", "Text: {text} label :") == (0, answers)
    assert train("other", "Said: {text} label :")[0] == count
    before = {path: path.read_bytes() for path in files(cache)}
    assert before
    predict(tmp_path / "first", data=data)
    assert {path: path.read_bytes() for path in files(cache)} == before, "texts to predict were written"
    evaluate(tmp_path / "first", data)  # which has rows that training did not take
    assert {path: path.read_bytes() for path in files(cache)} != before


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_sources_and_targets_are_read_together_as_they_are_one_by_one(family: str, asked: list[str]) -> None:
    together, single = tiny.backbone(family), tiny.backbone(family)
    together.tokens.read_sources(EXAMPLES)
    together.tokens.read_targets(EXAMPLES)
    asked.clear()
    found = [(together.tokens.source_ids(e, 24), together.tokens.target_ids(e)) for e in EXAMPLES]
    assert not set(asked) & {e.source + e.cue for e in EXAMPLES}
    assert found == [(single.tokens.source_ids(e, 24), single.tokens.target_ids(e)) for e in EXAMPLES]
