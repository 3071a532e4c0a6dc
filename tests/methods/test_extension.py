"""A method from outside the package: defined in a notebook cell, or brought by an installed package."""

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import softprompt
from softprompt.errors import BadInput, Interrupted, UnknownName
from softprompt.methods.bank import Bank
from softprompt.methods.method import ALIASES, METHODS, Method, register_method
from softprompt.methods.options import Rate
from softprompt.methods.prompts.free import FreeOptions
from softprompt.methods.registry import get_method, list_methods
from softprompt.runs.prompt import load_prompt
from softprompt.runtime.plugins import import_modules, load_plugins
from tests import tiny
from tests.command_line import QUICK, Cli
from tests.methods import test_embedding, test_equations
from tests.runs import test_start_from
from tests.training import test_loop

CELLS = dict(
    re.findall(
        r"```python\n# (a notebook cell|the next cell)\n(.*?)```",
        (Path(__file__).parent.parent.parent / "docs" / "adding-a-method.md").read_text(encoding="utf-8"),
        re.DOTALL,
    )
)
WORDS: dict[str, Any] = {"steps": 4, "batch": 4, "settings": {"evaluate_every": 2, "length": 3}}


@pytest.fixture(autouse=True)
def _only_here() -> Iterator[None]:
    """Forget, after each test, the methods that it registered."""
    methods, aliases = dict(METHODS), dict(ALIASES)
    yield
    for known, before in ((METHODS, methods), (ALIASES, aliases)):
        known.clear()
        known.update(before)  # type: ignore[arg-type]
    load_plugins.cache_clear()


def test_a_module_is_imported_before_or_after_the_verb(cli: Cli, data: Path, model: str, tmp_path: Path) -> None:
    (tmp_path / "my_methods.py").write_text(CELLS["a notebook cell"])
    given = ("--data", data, "--backbone", model, "--method", "gated", *QUICK)
    here, there = ("--import", tmp_path / "my_methods.py"), (f"--import={tmp_path / 'my_methods.py'}",)
    for i, words in enumerate(((*here, "train", *given), ("train", *given, *there))):
        sys.modules.pop("my_methods", None)
        METHODS.pop("gated", None)
        code, _, err = cli(*words, "--output", tmp_path / f"run-{i}")
        assert code == 0, err
        assert load_prompt(tmp_path / f"run-{i}").card.method == "gated"
    code, _, err = cli("--import", "no_such_module", "list", "methods")
    assert code == 2
    assert "no_such_module cannot be imported" in err


def run_cell() -> dict[str, Any]:
    """Run the cell of docs/adding-a-method.md as a notebook does."""
    cell: dict[str, Any] = {"__name__": "__main__"}
    exec(CELLS["a notebook cell"], cell)
    return cell


def test_the_documents_cells_train_predict_and_compare(
    data: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run_cell()
    code = CELLS["the next cell"].replace('"smollm2-135m"', repr(model)).replace("steps=120", "steps=2")
    code = code.replace('task="support"', f"data={str(data)!r}")
    exec(code.replace('tasks="support"', f"data={str(data)!r}, seeds=1, budget=1"), {})
    assert load_prompt("runs/gated").card.method == "gated"
    assert {path.name for path in Path("runs/compare/messages").iterdir() if path.is_dir()} == {
        "prompt_tuning", "gated", "gated+dept",
    }  # fmt: skip


def test_it_is_saved_loaded_folded_and_mixed_with_others(data: Path, model: str, tmp_path: Path) -> None:
    run_cell()
    trained = softprompt.train(data=data, backbone=model, method=["gated", "dept"], output=tmp_path, **WORDS)
    loaded = load_prompt(tmp_path / "gated")
    assert loaded.card.trainable == 3 * tiny.D + tiny.D
    assert torch.equal(loaded.folded.prompt, trained["gated"].folded.prompt)
    backbone = softprompt.load_backbone(model)
    bank = Bank({name: load_prompt(tmp_path / name).soft_prompt() for name in ("gated", "dept")})
    examples = test_embedding.EXAMPLES[:2]
    with backbone.using(bank):
        together = backbone.answer(examples, [0, 1], max_new_tokens=4)
        assert together == [backbone.answer([e], [i], max_new_tokens=4)[0] for i, e in enumerate(examples)]
    made = softprompt.make_prompt("gated", backbone, length=3)
    assert torch.equal(made.fold().prompt, made.prompt(None))


def test_it_resumes_to_the_bit_and_says_what_is_missing_where_it_is_unknown(
    data: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    run_cell()
    whole = softprompt.train(data=data, backbone=model, method="gated", output=tmp_path / "whole", **WORDS)["gated"]
    with monkeypatch.context() as patch:
        patch.setattr("softprompt.training.train.interruptible", lambda _: interrupted_after(3))
        with pytest.raises(Interrupted):
            softprompt.train(data=data, backbone=model, method="gated", output=tmp_path / "cut", **WORDS)
    del METHODS["gated"]

    # A run that folds is plain tensors: it answers without its method.
    assert softprompt.predict(tmp_path / "whole", ["a red b"])
    for words in (("--resume", tmp_path / "cut"), ("--data", data, "--start-from", tmp_path / "whole", *QUICK,
                  "--backbone", model, "--output", tmp_path / "next")):  # fmt: skip
        code, _, err = cli("train", *words)
        assert code == 2
        assert "Unknown method 'gated'" in err
        assert "--import MODULE" in err

    run_cell()
    softprompt.resume([tmp_path / "cut"])
    assert torch.equal(load_prompt(tmp_path / "cut").folded.prompt, whole.folded.prompt)
    more = softprompt.train(
        data=data, backbone=model, start_from=tmp_path / "whole", output=tmp_path / "more", steps=2, batch=4
    )
    assert more["gated"].card.start_from == "gated-messages"


class interrupted_after:
    """A stand-in for softprompt.runtime.interrupts.interruptible: Ctrl-C at the n-th time it is asked."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __enter__(self) -> Callable[[], bool]:
        return self

    def __exit__(self, *_: object) -> None: ...

    def __call__(self) -> bool:
        self.count -= 1
        return self.count <= 0


@pytest.mark.parametrize(
    "contract",
    [
        lambda tmp_path: test_loop.test_every_tensor_of_the_method_moves_and_none_of_the_backbone("llama", "gated"),
        lambda tmp_path: test_loop.test_every_method_learns_eight_examples("llama", "gated"),
        lambda tmp_path: test_equations.test_folded_equals_unfolded("gated"),
        lambda tmp_path: test_equations.test_groups_hold_every_trainable_tensor_once("gated"),
        lambda tmp_path: test_equations.test_every_prompt_takes_depts_offset("gated"),
        lambda tmp_path: test_embedding.test_equals_inputs_embeds_in_logits_and_generated_ids("t5", "gated"),
        lambda tmp_path: test_embedding.test_left_right_and_no_padding_agree("gpt2", "gated"),
        lambda tmp_path: test_start_from.test_options_that_belong_to_no_part_change_no_shape("gated"),
        lambda tmp_path: test_start_from.finished(tmp_path, "gated"),
    ],
)
def test_it_keeps_the_contract_of_every_method(contract: Callable[[Path], object], tmp_path: Path) -> None:
    run_cell()
    contract(tmp_path)


def test_a_cell_may_run_again_and_a_taken_name_is_refused() -> None:
    first = run_cell()["GatedOptions"]
    second = run_cell()["GatedOptions"]
    assert first is not get_method("gated").prompt is second
    assert get_method("gated+dept").options.__mro__[1] is second
    for name, aliases in (("dept", ()), ("mine", ("dept",)), ("low_rank", ()), ("mine", ("gated",))):
        with pytest.raises(BadInput, match="already a method named"):
            register_method(method(name=name, aliases=aliases))
    with pytest.raises(BadInput, match="plus"):
        register_method(method(name="a+b"))
    with pytest.raises(BadInput, match="set prompt_part"):
        method(prompt=softprompt.Options)
    with pytest.raises(BadInput, match="set offset_part"):
        method(offset=FreeOptions)
    with pytest.raises(BadInput, match="'lenght', which is not an option"):
        method(defaults={"lenght": 3})
    with pytest.raises(BadInput, match="both parts have an option 'rank'"):
        method(prompt=Ranked, offset=get_method("dept").offset)
    assert "mine" not in METHODS


class Ranked(FreeOptions):
    of_prompt = ("length", "rank")

    rank: int = 3


def method(**more: Any) -> Method:
    return Method(**{"name": "mine", "title": "Mine", "prompt": FreeOptions, "rates": {"prompt": Rate(0.3)}, **more})


def test_an_alias_is_read_and_the_name_written() -> None:
    register_method(method(aliases=("yours",), defaults={"length": 7}))
    assert get_method("yours") is get_method("mine")
    assert get_method("yours").options().length == 7
    assert get_method("yours+dept").name == "mine+dept"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Installs a package, with the module that is given, which declares an entry point."""

    def install(code: str) -> None:
        info = tmp_path / "gated_prompts-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: gated-prompts\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[softprompt.methods]\ngated = gated_prompts\n")
        (tmp_path / "gated_prompts.py").write_text(code)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(__import__("sys").modules, "gated_prompts", raising=False)
        load_plugins.cache_clear()

    return install


@pytest.mark.parametrize("name", ["gated", "gated+dept", "smop+gated"])
def test_an_installed_packages_method_is_found_when_it_is_asked_for(name: str, package: Callable[[str], None]) -> None:
    package(CELLS["a notebook cell"])
    assert "gated" not in METHODS
    if name == "smop+gated":
        with pytest.raises(BadInput, match="gated has no offset"):
            get_method(name)
    else:
        assert get_method(name).name == name


def test_an_installed_packages_method_is_listed(package: Callable[[str], None], cli: Cli) -> None:
    package(CELLS["a notebook cell"])
    code, out, err = cli("list", "methods")
    assert code == 0, err
    assert "gated" in out
    assert [one.name for one in list_methods()].count("gated") == 1


def test_a_broken_package_is_named_and_known_methods_go_on(package: Callable[[str], None]) -> None:
    package("import nowhere_to_be_found")
    assert get_method("dept").name == "dept"
    for ask in (list_methods, lambda: get_method("gated")):
        with pytest.raises(BadInput, match=r"package 'gated-prompts' cannot be loaded: ModuleNotFoundError.*Repair"):
            ask()


def test_a_module_named_by_the_user_brings_its_methods(tmp_path: Path) -> None:
    (tmp_path / "my_gated.py").write_text(CELLS["a notebook cell"])
    import_modules([str(tmp_path / "my_gated.py")])
    assert get_method("gated").prompt.__module__ == "my_gated"
    with pytest.raises(UnknownName, match="Did you mean 'gated'"):
        get_method("gatde")
