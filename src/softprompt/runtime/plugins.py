"""Import code from outside softprompt: installed packages that declare an entry point, and modules named by the user.

What they import registers itself (a method with register_method).
"""

import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from softprompt.errors import BadInput


@cache
def load_plugins(group: str) -> None:
    """Import the modules of every entry point of `group`, once. Raises BadInput naming the package that is broken."""
    for point in importlib.metadata.entry_points(group=group):
        package = "an installed package" if point.dist is None else f"the package {point.dist.name!r}"
        try:
            point.load()
        except Exception as error:
            raise BadInput(
                f"The entry point {point.name!r} ({group}, {point.value}) of {package} cannot be loaded: "
                f"{type(error).__name__}: {error}. Repair or uninstall that package."
            ) from error


imported: list[str] = []
"""What `import_modules` has imported here: processes that are started for this one import it too."""


def import_modules(names: Iterable[str]) -> None:
    """Import modules by name (from here or where Python finds them) or by the path of a .py file. Raises BadInput."""
    for name in names:
        try:
            if name.endswith(".py"):
                _import_file(Path(name).resolve())
            else:
                _import_name(name)
        except Exception as error:
            raise BadInput(
                f"{name} cannot be imported: {type(error).__name__}: {error}. Expected the name of a Python module in "
                "this folder or installed, or the path of a .py file; correct the name, or repair the module."
            ) from error
        imported.append(str(Path(name).resolve()) if name.endswith(".py") else name)


def _import_name(name: str) -> None:
    here = str(Path.cwd())
    sys.path.insert(0, here)  # an installed command does not search the folder it is started in
    try:
        importlib.import_module(name)
    finally:
        sys.path.remove(here)


def _import_file(path: Path) -> None:
    """Import a file as the module of its name, once."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if getattr(sys.modules.get(path.stem), "__file__", None) == str(path):
        return
    if path.stem in sys.modules:
        raise ImportError(f"another module is named {path.stem}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # before it runs: pickle and dataclasses look a class's module up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path.stem]
        raise
