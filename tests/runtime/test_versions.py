"""A package that is newer than the tests have seen is said once."""

import importlib.metadata
import warnings
from pathlib import Path

import pytest

from softprompt.runtime.versions import TESTED, warn_of_newer


@pytest.fixture(autouse=True)
def _forgotten() -> None:
    warn_of_newer.cache_clear()


@pytest.mark.parametrize("installed", ["5.24.0", "6.0.0.dev0", "10.1"])
def test_a_newer_package_is_said_once(installed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _: installed)
    with pytest.warns(UserWarning, match=rf"transformers {installed} is newer than 5\.23"):
        warn_of_newer("transformers")
    with warnings.catch_warnings(action="error"):
        warn_of_newer("transformers")


@pytest.mark.parametrize("installed", ["5.23.7", "5.15.0+cpu", "4.99"])
def test_a_tested_or_older_one_is_not(installed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _: installed)
    with warnings.catch_warnings(action="error"):
        warn_of_newer("transformers")


def test_what_the_tests_run_with_is_what_was_tested() -> None:
    pins = dict(line.split("==") for line in Path("constraints.txt").read_text().splitlines() if "==" in line)
    assert {name: ".".join(pins[name].split(".")[:2]) for name in TESTED} == TESTED
