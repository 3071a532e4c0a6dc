"""Transfer: a run starts as the very function that another one ended as, or says why it cannot."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file, save_file

import softprompt
from softprompt.backbones import Backbone
from softprompt.errors import BadArtefact, BadInput, Interrupted, PromptMismatch
from softprompt.methods.bank import Bank
from softprompt.methods.registry import METHODS, InitContext, Method, make, parse_options
from softprompt.runs.prompt import load_prompt
from softprompt.runs.run_card import read_run_card
from softprompt.runs.start_from import Predecessor, read_predecessor
from softprompt.tasks import Example, Task
from softprompt.training.candidate import Candidate, make_candidate
from softprompt.training.finish import finish
from softprompt.training.loop import tune
from softprompt.training.request import choose_methods, make_recipes
from softprompt.training.run import Run, Setting, begin, resume_run, tune_runs
from tests import tiny
from tests.candidates import candidate, on_families, one_of_each_kind
from tests.command_line import QUICK, Cli
from tests.compare import assert_close, assert_same_tensors, copied
from tests.sources import LENGTH


def fits(one: Method, other: Method) -> bool:
    """Whether a run of `other` can start from one of `one`."""
    same_part = one.prompt_part == other.prompt_part
    settable = other.options.accepts_rows and one.kind != "input"  # settable rows start from any rows
    return (same_part or settable) and one.offset_part in (None, other.offset_part)


FROM = {one.name: [other.name for other in METHODS.values() if fits(one, other)] for one in METHODS.values()}
PAIRS = [(one, other) for one, others in FROM.items() for other in others]
FAMILIES = ["llama", "t5"]
QUIET = {"evaluate_every": 2, "steps": 2, "batch": 4}


def target_task() -> Task:
    """Other sentences, some longer than any of the source task, with other answers."""
    texts = ["a yes b really not very good h e l l o world", "my parcel is late", "invoice wrong", "how do i log in"]
    examples = [Example(t, "yes" if i % 2 else "no", " team :", ("yes", "no"), (), str(i)) for i, t in enumerate(texts)]
    return Task("target", {"train": examples, "dev": examples, "test": examples}, ("yes", "no"), ("accuracy",), "{t}")


Predecessors = Callable[..., Predecessor]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Predecessors:
    """Predecessor runs, each made once; `copy` is a folder for one that a test changes."""
    made: dict[tuple[str, str], Path] = {}

    def find(method: str, family: str = "llama", copy: Path | None = None) -> Predecessor:
        if (method, family) not in made:
            made[method, family] = tmp_path_factory.mktemp("predecessor") / "run"
            finished(made[method, family], method, family)
        folder = made[method, family]
        return read_predecessor(folder if copy is None else shutil.copytree(folder, copy))

    return find


def finished(folder: Path, method: str, family: str = "llama", **recipe: Any) -> Predecessor:
    """A run of six steps at rates that move everything."""
    backbone = tiny.backbone(family)
    one = candidate(backbone, method, **{"rate_factor": 10, **recipe})
    run = begin(one, folder, Setting(backbone=backbone.name))
    tune(backbone, [one])
    finish(backbone, run, {})
    return read_predecessor(folder)


def transferred(predecessor: Predecessor, backbone: Backbone, method: str | None = None, **given: Any) -> Candidate:
    methods = choose_methods(method, predecessor)
    recipes = make_recipes(methods, {**QUIET, **given}, 0, predecessor, backbone.max_source)
    return make_candidate("new", recipes[methods[0]], backbone, target_task(), predecessor)


def loss_of(predecessor: Predecessor, backbone: Backbone, examples: list[Example]) -> float:
    """Mean token loss of the predecessor's prompt, as it is stored, on `examples`."""
    with torch.no_grad(), backbone.using(Bank({"predecessor": predecessor.prompt.soft_prompt()})):
        losses = backbone.loss(backbone.pose(examples, [0] * len(examples), targets=True))
    return float(losses.nll.sum() / losses.tokens.sum())


@pytest.mark.parametrize(("family", "method"), on_families(METHODS, ["t5"]))
def test_the_same_method_starts_with_the_predecessors_own_tensors(
    family: str, method: str, ended: Predecessors
) -> None:
    predecessor = ended(method, family)
    one = transferred(predecessor, tiny.backbone(family))
    expected = load_file(predecessor.folder / "method.safetensors")
    for name in ("offset.a", "offset.weights"):
        if name in expected:
            expected[name][~expected["offset.reached"]] = 0
    assert_same_tensors(one.prompt.state_dict(), expected)
    assert one.recipe.method == method
    assert one.step == 0
    assert one.optimizer.state_dict()["state"] == {}, "AdamW starts afresh"


@pytest.mark.parametrize(
    ("family", "method", "other"),
    [("llama", *pair) for pair in PAIRS] + [("t5", one, one) for one in one_of_each_kind(METHODS)],
)
def test_the_first_step_has_the_loss_that_the_predecessor_ended_with(
    family: str, method: str, other: str, ended: Predecessors
) -> None:
    predecessor, backbone = ended(method, family), tiny.backbone(family)
    one = transferred(predecessor, backbone, other)
    examples = one.next_examples()
    if predecessor.prompt.card.positions is not None:
        assert one.prompt.offset is not None
        reached = int(one.prompt.offset.get_buffer("reached").sum())
        assert any(backbone.tokens.size(example, targets=False) > reached for example in examples)
    expected = loss_of(predecessor, backbone, examples)
    for part in one.prompt.children():  # the predecessor's loss is that of its prompt at rest
        vars(part).update(dict.fromkeys({"noise", "dropout"} & vars(part).keys(), 0.0))
    own = candidate(backbone, other, target_task())
    assert len(own.next_examples()) == len(examples) == 4  # all of the task, in whatever order
    tune(backbone, [one, own])
    assert one.history[0]["loss"] == pytest.approx(expected, rel=1e-5)
    assert own.history[0]["loss"] != pytest.approx(expected, rel=1e-3), "the method's own start is another"


@pytest.mark.parametrize(("method", "other"), PAIRS)
def test_what_a_run_started_as_folds_to_what_its_predecessor_folded_to(
    method: str, other: str, ended: Predecessors
) -> None:
    predecessor = ended(method)
    one = transferred(predecessor, tiny.backbone("llama"), other).prompt
    if predecessor.prompt.card.kind == "input":
        assert_same_tensors(one.state_dict(), predecessor.prompt.form.tensors)  # type: ignore[union-attr]
        return
    made, expected = one.fold(), predecessor.prompt.folded
    if expected.network is not None:
        assert made.network is not None
        assert all(torch.equal(a, b) for a, b in zip(made.network, expected.network, strict=True))
    assert_close(made.prompt, expected.prompt, 1e-6)
    if expected.offset is not None:
        assert made.offset is not None
        assert_close(made.offset, expected.offset, 1e-6)
        assert made.zeroed == expected.zeroed
    elif made.offset is not None:
        assert not made.offset.any(), "an offset that the predecessor has not starts at zero"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("other", METHODS)
def test_what_cannot_start_from_a_run_is_refused_and_what_can_is_named(
    method: str, other: str, ended: Predecessors
) -> None:
    predecessor = ended(method)
    if other in FROM[method]:
        make_recipes([other], {}, 0, predecessor)
        return
    with pytest.raises(BadInput, match=f"{other} cannot start from .*{method} on tiny.*: ") as caught:
        make_recipes([*FROM[method][:1], other], {}, 0, predecessor)
    assert f"Methods that can: {', '.join(FROM[method])} (--method)." in str(caught.value)


def test_positions_that_the_predecessor_reached_stay_reached_and_new_ones_start_without_an_offset(
    ended: Predecessors,
) -> None:
    predecessor, backbone = ended("dept"), tiny.backbone("llama")
    before = load_file(predecessor.folder / "method.safetensors")["offset.reached"]
    one = transferred(predecessor, backbone, steps=4)
    fresh = copied(one.prompt)
    tune(backbone, [one])
    after = one.prompt.state_dict()["offset.reached"]
    assert bool(after[before].all())
    new = after & ~before
    assert int(new.sum()) > 2, "the target task is longer"
    assert not fresh["offset.a"][new].any()
    assert one.prompt.state_dict()["offset.a"][new].any(), "and is then learned"
    assert one.prompt.fold().zeroed == int((~after).sum()) < predecessor.prompt.card.zeroed


def test_options_that_are_not_given_are_the_predecessors(tmp_path: Path) -> None:
    options = {"length": 4, "rank": 2, "alpha": None, "positions": 9, "start": "noise"}
    predecessor = finished(tmp_path, "dept", options=options)
    recipe = make_recipes(["dept"], {"steps": 5}, 0, predecessor)["dept"]
    assert recipe.options == {"length": 4, "rank": 2, "alpha": None, "positions": 9}
    assert recipe.steps == 5
    assert (
        make_recipes(["dept"], {"length": 4, "alpha": None}, 0, predecessor)["dept"]
        == make_recipes(["dept"], {}, 0, predecessor)["dept"]
    )
    other = finished(tmp_path / "other", "superpos", options={"length": 4, "sampled": 8, "codebook": "delta"})
    found = make_recipes(["dept", "superpos"], {"rank": 5}, 0, other)
    assert found["dept"].options == {"length": 4, "rank": 5}
    assert found["superpos"].options["codebook"] == "delta"
    assert "pool" not in found["superpos"].options


@pytest.mark.parametrize(
    ("method", "given", "max_source", "message"),
    [
        ("dept", {"length": 5}, 256, r"length=5 .* which has length=3. Leave length out"),
        ("dept", {"rank": 4}, 256, r"rank=4 .* which has rank=3"),
        ("dept", {"alpha": None}, 256, r"alpha=null .* which has alpha=8.0"),
        ("dept", {"positions": 100}, 256, r"positions=100 .* for 256 source positions. Give --max-source 256, or"),
        ("dept", {}, 128, r"--max-source 128 .* for 256 source positions"),
        ("dept", {"start": "text"}, 256, r'start="text" says where .* --start-from'),
        ("superpos", {"sampled": 9}, 256, r"sampled=9 .* sampled=8"),
        ("superpos", {"softmax": True}, 256, r"softmax=true .* softmax=false"),
        ("superpos", {"shared": True}, 256, r"shared=true .* shared=false"),
        ("superpos", {"codebook": "frozen"}, 256, r'codebook="frozen" .* codebook="trained"'),
        ("superpos", {"weights_scale": 2.0}, 256, r"weights_scale=2.0 says where"),
        ("superpos_dept", {"pool": 7}, 256, r"pool=7 says where"),
    ],
)  # fmt: skip
def test_options_that_the_predecessors_tensors_contradict_are_named(
    method: str, given: dict[str, Any], max_source: int, message: str, ended: Predecessors
) -> None:
    predecessor = ended(method)
    with pytest.raises(BadInput, match=message):
        make_recipes([method], given, 0, predecessor, max_source)


def test_the_positions_of_the_predecessor_can_be_kept_whatever_is_read(ended: Predecessors) -> None:
    predecessor = ended("dept")
    backbone = tiny.backbone("llama", max_source=40)
    one = transferred(predecessor, backbone, positions=256)
    assert one.prompt.fold().offset is not None
    assert len(one.prompt.fold().offset) == 256  # type: ignore[arg-type]


@pytest.mark.parametrize("method", METHODS)
def test_options_that_belong_to_no_part_change_no_shape(method: str) -> None:
    options = METHODS[method].options
    carried = {*options.of_prompt, *options.of_offset}
    assert carried <= options.model_fields.keys()
    small = {"length": LENGTH, **tiny.small(method)}

    def shapes(**given: object) -> dict[str, tuple[int, ...]]:
        parsed = parse_options(METHODS[method], {**small, **given})
        backbone = tiny.backbone("llama")
        sources = torch.zeros(len(parsed.runs()), LENGTH, backbone.d)
        made = make(METHODS[method], parsed, InitContext(backbone, 12, ("good", "bad"), 0, sources))
        return {name: tuple(tensor.shape) for name, tensor in made.state_dict().items()}

    for name in options.model_fields.keys() - carried:
        annotation = options.model_fields[name].annotation
        choices = get_args(annotation)
        others: list[object] = [value for value in choices if isinstance(value, str)] or ["8"]
        given = {"start_text": "good"} if "start_text" in options.model_fields else {}
        for value in [True, False] if annotation is bool else others:
            assert shapes(**{**given, name: value}) == shapes(), f"{name}={value}"


@pytest.mark.parametrize("other", ["gpt2", "t5"])
def test_a_run_on_another_backbone_is_refused(other: str, ended: Predecessors) -> None:
    predecessor = ended("dept")
    with pytest.raises(PromptMismatch, match=f"tuned for tiny-llama .* not for tiny-{other}"):
        transferred(predecessor, tiny.backbone(other))


def _swapped(folder: Path) -> None:
    tensors = load_file(folder / "method.safetensors")
    save_file(
        {n: t.flip(0).contiguous() if n == "offset.b" else t for n, t in tensors.items()}, folder / "method.safetensors"
    )


def _renamed(folder: Path) -> None:
    tensors = load_file(folder / "method.safetensors")
    save_file({n.replace("offset.a", "offset.c"): t for n, t in tensors.items()}, folder / "method.safetensors")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "method.safetensors").unlink(), r"method\.safetensors, .* is missing there"),
        (lambda folder: (folder / "method.safetensors").write_bytes(b"PK"), "no safetensors"),
        (_swapped, "does not fold to what prompt.safetensors"),
        (_renamed, r"holds .*'c'.* prompt\.json needs .*'a'"),
        (lambda folder: (folder / "prompt.json").unlink(), "--resume"),
        (lambda folder: (folder / "prompt.safetensors").unlink(), "is missing"),
        (shutil.rmtree, "is not a folder"),
    ],
)
def test_a_predecessor_that_is_damaged_is_one_clear_error(
    ended: Predecessors, tmp_path: Path, damage: Any, message: str
) -> None:
    ended("dept", copy=tmp_path / "predecessor")
    damage(tmp_path / "predecessor")
    with pytest.raises((BadArtefact, BadInput), match=message):
        transferred(read_predecessor(tmp_path / "predecessor"), tiny.backbone("llama"))


def test_folded_rows_are_enough_for_free_rows(ended: Predecessors, tmp_path: Path) -> None:
    ended("superpos", copy=tmp_path / "predecessor")
    (tmp_path / "predecessor" / "method.safetensors").unlink()
    predecessor = read_predecessor(tmp_path / "predecessor")
    one = transferred(predecessor, tiny.backbone("llama"), "prompt_tuning")
    assert torch.equal(one.prompt.state_dict()["prompt.rows"], predecessor.prompt.folded.prompt)
    with pytest.raises(BadInput, match=r"is missing there. Methods that can: prompt_tuning, dept"):
        make_recipes(["superpos"], {}, 0, predecessor)


def test_a_run_says_where_it_started_and_one_that_did_not_says_nothing(ended: Predecessors, tmp_path: Path) -> None:
    predecessor = ended("dept", copy=tmp_path / "predecessor")
    backbone = tiny.backbone("llama")
    one = transferred(predecessor, backbone)
    run = begin(one, tmp_path / "new", Setting(backbone=backbone.name))
    tune(backbone, [one])
    prompt = finish(backbone, run, {})
    told = read_run_card(tmp_path / "new").start_from
    assert told == predecessor.record
    assert told.folder == str((tmp_path / "predecessor").resolve())
    assert set(told.sha256) == {"prompt.safetensors", "method.safetensors"}
    assert prompt.card.start_from == "dept"
    assert "starting from the prompt of `dept`" in (tmp_path / "new" / "README.md").read_text()
    assert "starting from" not in (tmp_path / "predecessor" / "README.md").read_text()
    for file in ("prompt.json", "run.json"):  # as runs were written before there was transfer
        path = tmp_path / "predecessor" / file
        path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "start_from"}))
    assert load_prompt(tmp_path / "predecessor").card.start_from is None
    assert read_run_card(tmp_path / "predecessor").start_from is None


def begun(predecessor: Predecessor, backbone: Backbone, folder: Path) -> Run:
    return begin(transferred(predecessor, backbone, steps=6), folder, Setting(backbone=backbone.name))


@pytest.mark.parametrize("method", one_of_each_kind(METHODS))
def test_an_interrupted_run_goes_on_without_its_predecessor(method: str, ended: Predecessors, tmp_path: Path) -> None:
    predecessor, backbone = ended(method, copy=tmp_path / "predecessor"), tiny.backbone("llama")
    whole, cut = begun(predecessor, backbone, tmp_path / "whole"), begun(predecessor, backbone, tmp_path / "cut")
    tune_runs(backbone, [whole])
    with pytest.raises(Interrupted):
        tune_runs(backbone, [cut], interrupted=lambda: cut.candidate.step >= 3)
    shutil.rmtree(tmp_path / "predecessor")
    run = resume_run(read_run_card(tmp_path / "cut"), tmp_path / "cut", backbone, target_task())
    assert run.candidate.step == 3
    tune_runs(backbone, [run])
    assert_same_tensors(run.candidate.prompt.state_dict(), whole.candidate.prompt.state_dict())
    assert run.candidate.history == whole.candidate.history
    assert finish(backbone, run, {}).card.start_from == method


def _changed(folder: Path) -> None:
    tensors = load_file(folder / "prompt.safetensors")
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, folder / "prompt.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [(lambda folder: None, None), (shutil.rmtree, "is not a folder"), (_changed, "its tensors have changed")],
)
def test_a_run_stopped_before_its_first_checkpoint_needs_its_predecessor(
    change: Any, message: str | None, ended: Predecessors, tmp_path: Path
) -> None:
    predecessor, backbone = ended("dept", copy=tmp_path / "predecessor"), tiny.backbone("llama")
    started = copied(begun(predecessor, backbone, tmp_path / "run").candidate.prompt)
    change(tmp_path / "predecessor")
    card = read_run_card(tmp_path / "run")
    if message is None:
        run = resume_run(card, tmp_path / "run", backbone, target_task())
        assert_same_tensors(copied(run.candidate.prompt), started)
        assert run.candidate.start_from == predecessor.record
        return
    with pytest.raises(BadArtefact, match=rf"before its first checkpoint, .*{message}.* train again with --overwrite"):
        resume_run(card, tmp_path / "run", backbone, target_task())


# The command line


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "target.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = [[example.source, example.target] for example in target_task().examples["train"]]
        csv.writer(file).writerows([["text", "label"], *rows * 6])
    return path


def test_train_starts_from_a_run_and_its_method(cli: Cli, data: Path, target: Path, model: str, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    common = ("train", "--backbone", model, "--steps", 4, "--batch", 4, "--set", "evaluate_every=2")
    shape = ("--method", "dept", "--set", "length=4", "--set", "rank=2")
    assert cli(*common, "--data", data, "--output", first, *shape)[0] == 0
    code, _, err = cli(*common, "--data", target, "--output", second, "--start-from", first)
    assert code == 0, err
    assert "starts from dept-messages" in err
    card, told = (json.loads((second / name).read_text()) for name in ("prompt.json", "run.json"))
    assert (card["method"], card["length"], card["start_from"]) == ("dept", 4, "dept-messages")
    assert card["choices"] == ["no", "yes"]
    assert told["start_from"]["folder"] == str(first.resolve())
    assert cli("predict", second, "my parcel is late")[0] == 0
    code, out, _ = cli("show", second)
    assert "start_from dept-messages" in out


def test_several_methods_start_from_one_run(cli: Cli, data: Path, target: Path, model: str, tmp_path: Path) -> None:
    common = ("train", "--backbone", model, *QUICK)
    first, second = tmp_path / "first", tmp_path / "second"
    assert cli(*common, "--data", data, "--output", first, "--method", "superpos", "--set", "sampled=8")[0] == 0
    both = ("--method", "prompt_tuning", "--method", "dept", "--start-from", first, "--set", "rank=2")
    code, _, err = cli(*common, "--data", target, "--output", second, *both)
    assert code == 0, err
    made = softprompt.train(
        data=target, backbone=model, output=tmp_path / "third", start_from=first, steps=4, batch=4, seed=1
    )
    assert made["superpos"].card.start_from == "superpos-messages"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--start-from", "nowhere"], "nowhere is not a folder"),
        (["--start-from", "FIRST", "--method", "prompt_tuning"], "Methods that can: dept (--method)"),
        (["--start-from", "FIRST", "--method", "dept", "--method", "superpos"], "superpos cannot start from"),
        (["--start-from", "FIRST", "--set", "rank=7"], "rank=7"),
        (["--start-from", "FIRST", "--max-source", "64"], "--max-source 64"),
        (["--start-from", "FIRST", "--backbone", "WIDE"], "tuned for"),
        (["--start-from", "FIRST", "--output", "FIRST"], "already holds a finished run"),
        (["--start-from", "FIRST", "--output", "FIRST", "--overwrite"], "is the run to start from"),
    ],
)
def test_a_start_that_cannot_be_is_one_error_before_anything_is_written(
    cli: Cli, data: Path, model: str, tmp_path: Path, words: list[str], message: str
) -> None:
    first, out = tmp_path / "first", tmp_path / "out"
    shape = ("--method", "dept", "--set", "rank=2")
    assert cli("train", "--data", data, "--backbone", model, "--output", first, *QUICK, *shape)[0] == 0
    before = {path.name: path.read_bytes() for path in first.iterdir()}
    wide = tiny.save_tiny("gpt2", tmp_path / "wide") if "WIDE" in words else ""
    names = {"FIRST": str(first), "WIDE": wide}
    given = [names.get(word, word) for word in words]
    code, stdout, err = cli("train", "--data", data, "--backbone", model, "--output", out, *QUICK, *given)
    assert (code, stdout) == (2, "")
    assert message in " ".join(err.split()), err
    assert not out.exists()
    assert {path.name: path.read_bytes() for path in first.iterdir()} == before


def test_check_knows_the_start_too(cli: Cli, data: Path, model: str, tmp_path: Path) -> None:
    first = tmp_path / "first"
    shape = ("--method", "dept", "--set", "rank=2")
    assert cli("train", "--data", data, "--backbone", model, "--output", first, *QUICK, *shape)[0] == 0
    common = ("check", "--data", data, "--backbone", model, "--start-from", first, "--json")
    code, out, err = cli(*common)
    assert code == 0, err
    found = json.loads(out)["resolved"]
    assert found["start_from"]["name"] == "dept-messages"
    assert found["dept"]["options"]["rank"] == 2
    code, out, _ = cli(*common, "--max-source", 64, "--set", "rank=2")
    assert code == 2
    assert "--max-source 64" in json.loads(out)["problems"][0]
    wide = Path(shutil.copytree(model, tmp_path / "wide"))
    config = json.loads((wide / "config.json").read_text())
    (wide / "config.json").write_text(json.dumps(config | {"hidden_size": 2 * tiny.D}))
    code, out, _ = cli(*common, "--backbone", wide)
    assert code == 2
    assert f"hidden size {tiny.D}; {wide} has {2 * tiny.D}" in json.loads(out)["problems"][0]
    code, out, _ = cli(*common[:-2], tmp_path / "none", "--json")
    assert code == 2
    assert "not a folder" in json.loads(out)["problems"][0]
