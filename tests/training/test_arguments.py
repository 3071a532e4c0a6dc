"""An argument is declared once: signatures, flags and the documentation's table are made from the declaration."""

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import BaseModel

import softprompt
from softprompt.cli.app import Verbs, app
from softprompt.errors import BadInput, UnknownName
from softprompt.experiments.arguments import CompareArguments, SweepArguments
from softprompt.runtime.arguments import flag_of, given_in, parse_model
from softprompt.training.arguments import CommonArguments, RunArguments, TrainingArguments
from softprompt.training.parsing import parse_words
from tests.command_line import Cli

VERBS: dict[str, type[BaseModel]] = {
    "train": TrainingArguments, "sweep": SweepArguments, "compare": CompareArguments,
}  # fmt: skip


def flags(verb: str) -> set[str]:
    group = typer.main.get_command(app)
    assert isinstance(group, Verbs)
    return {name for parameter in group.get_command(None, verb).params for name in parameter.opts}


@pytest.mark.parametrize("verb", VERBS)
def test_the_signature_in_python_is_the_declaration(verb: str) -> None:
    function, model = getattr(softprompt, verb), VERBS[verb]
    assert set(inspect.signature(function).parameters) == set(model.model_fields)
    assert function.__name__ == verb
    for name, field in model.model_fields.items():
        assert field.description
        assert f"  {name}: {field.description}" in function.__doc__


@pytest.mark.parametrize(("verb", "model"), [*VERBS.items(), ("check", RunArguments)])
def test_every_field_is_a_flag_and_every_help_stands_alone(verb: str, model: type[BaseModel]) -> None:
    found = flags(verb)
    for name, field in model.model_fields.items():
        flag = flag_of(field)
        if not flag.hidden and not (name == "fsdp" and verb in ("sweep", "compare")):
            expected = set(flag.name.split()) if flag.name else {f"--{name.replace('_', '-')}"}
            assert expected <= found, name
        assert re.match(r"[A-Z0-9]", str(field.description)), name


def test_what_run_json_keeps_is_declared_where_it_is_kept() -> None:
    from softprompt.recipes import Recipe, Setting
    from softprompt.tasks.published.spec import TaskSpec

    for name in Setting.model_fields:
        assert CommonArguments.model_fields[name].description == Setting.model_fields[name].description
    for name in ("steps", "batch", "tokens_per_step", "seed"):
        assert RunArguments.model_fields[name].description == Recipe.model_fields[name].description
    for name in ("protocol", "compat", "shots", "draw"):
        assert CommonArguments.model_fields[name].description == TaskSpec.model_fields[name].description


def test_none_is_not_given_and_defaults_are_not_either() -> None:
    made = parse_model(RunArguments, {"backbone": "x", "steps": None, "batch": 4})
    assert given_in(made) == {"backbone": "x", "batch": 4}
    assert made.steps == 300


@pytest.mark.parametrize(
    ("given", "message", "error"),
    [
        ({"stps": 3}, "Did you mean 'steps'", UnknownName),
        ({"steps": 0}, "steps=0: Input should be greater than or equal to 1", BadInput),
        ({"steps": "many"}, "steps='many'", BadInput),
        ({"placement": "behind"}, "Unknown placement 'behind'", UnknownName),
        ({"max_source": 0}, "max_source=0", BadInput),
        ({"words": 3}, "words=3", BadInput),
    ],
)
def test_a_value_that_does_not_fit_is_one_clear_error(given: dict[str, Any], message: str, error: type) -> None:
    with pytest.raises(error, match=re.escape(message)):
        softprompt.train(output="nowhere", **given)
    assert not Path("nowhere").exists()


def test_the_documentation_is_made_from_the_declaration() -> None:
    from docs.make_arguments import FILE, page

    assert FILE.read_text(encoding="utf-8") == page(), "python -m docs.make_arguments"


@pytest.mark.parametrize(
    ("pairs", "words"),
    [(["1=good", "0=bad"], {"1": "good", "0": "bad"}), (['{"a=b": "yes", "c": "no"}'], {"a=b": "yes", "c": "no"}),
     (["a=x", "a=x"], {"a": "x"})],
)  # fmt: skip
def test_label_words_are_pairs_or_json(pairs: list[str], words: dict[str, str]) -> None:
    assert parse_words(pairs) == words


@pytest.mark.parametrize(
    ("pairs", "message"),
    [(["a=b=yes"], r"which of the equals signs ends the label\? .*--word '\{\"a=b\": \"yes\"\}'"),
     (["a=x", "a=y"], r"gives the label 'a' two words, 'x' and 'y'"), (["a"], "expected LABEL=WORD")],
)  # fmt: skip
def test_label_words_that_say_two_things_are_refused(pairs: list[str], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        parse_words(pairs)


def test_the_help_of_train_is_grouped_and_lists_what_set_takes_with_defaults(cli: Cli) -> None:
    shown = cli("train", "--help")[1]
    headings = [line for line in shown.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert headings == [
        "Arguments:", "Options:", "Output:", "Task and method:", "Data and settings:", "Published tasks (--task):",
        "Length of a run:", "Backbone:",
    ]  # fmt: skip
    out = " ".join(shown.split())
    assert "patience" in out
    assert "evaluate_every=50" in out
    assert "dev_limit=200" in out
