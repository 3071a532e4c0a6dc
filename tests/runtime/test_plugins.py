"""Code from outside the package is imported, or it is said why not."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from softprompt.errors import BadInput
from softprompt.runtime.plugins import import_modules, load_plugins


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Stand in a folder of its own, and forget what was imported from there."""
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.parametrize("name", ["outside_module", "outside_module.py", "folder/outside_module.py"])
def test_a_module_is_imported_once_by_name_or_path(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for folder in (tmp_path, tmp_path / "folder"):
        (folder / "outside_module.py").write_text("")
    path = list(sys.path)
    import_modules([name])
    first = sys.modules["outside_module"]
    import_modules([name, name])
    assert sys.modules["outside_module"] is first
    assert sys.path == path
    assert Path(str(first.__file__)).resolve() == (tmp_path / name).with_suffix(".py").resolve()


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("not_there", "ModuleNotFoundError"),
        ("not_there.py", "there is no file"),
        ("broken_one", "ZeroDivisionError"),
        ("broken_one.py", "ZeroDivisionError"),
        ("json.py", "another module is named json"),
    ],
)
def test_what_cannot_be_imported_is_named_with_the_reason(name: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "broken_one.py").write_text("1 / 0")
    (tmp_path / "json.py").write_text("")
    with pytest.raises(BadInput, match=f"^{name} cannot be imported: .*{why}.*Expected the name of a Python module"):
        import_modules([name])
    assert "broken_one" not in sys.modules


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The module of an installed package that declares an entry point of the group softprompt.tests."""
    info = tmp_path / "outside_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[softprompt.tests]\nmine = outside_package\n")
    monkeypatch.syspath_prepend(tmp_path)
    load_plugins.cache_clear()
    yield tmp_path / "outside_package.py"
    load_plugins.cache_clear()


def test_the_modules_of_a_group_are_imported_and_of_no_other(package: Path) -> None:
    package.write_text("")
    load_plugins("softprompt.others")
    assert "outside_package" not in sys.modules
    load_plugins("softprompt.tests")
    assert "outside_package" in sys.modules


def test_a_broken_package_is_named_each_time(package: Path) -> None:
    package.write_text("import nowhere_to_be_found")
    for _ in range(2):
        with pytest.raises(BadInput, match=r"'mine' .*package 'outside-package' cannot be loaded: ModuleNotFoundError"):
            load_plugins("softprompt.tests")
