"""Check the folder of a run before anything is written to it, and record the versions of packages."""

import importlib.metadata
import platform
from collections.abc import Iterable
from pathlib import Path

from softprompt.errors import BadInput
from softprompt.recipes import Recipe
from softprompt.runs.start_from import Predecessor

FINISHED = "prompt.json"
"""The file of a run that is written last."""


def versions(*more: str) -> dict[str, str]:
    """Return the versions of Python and of the packages that a result depends on; some methods need `more`."""
    packages = ("softprompt", "torch", "transformers", "accelerate", *more)
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in packages}


def check_folder(
    folder: Path, *, overwrite: bool = False, predecessor: Predecessor | None = None, recipes: Iterable[Recipe] = ()
) -> None:
    """Raise BadInput for a folder that already holds something, unless it may be overwritten.

    The folder of `predecessor`, or of a run that one of `recipes` reads, may never be overwritten.
    """
    if folder.is_file():
        raise BadInput(f"--output {folder} is a file; give a folder.")
    if overwrite and predecessor is not None and folder.resolve() == predecessor.folder.resolve():
        raise BadInput(f"--output {folder} is the run to start from, and would be lost; choose another folder.")
    for recipe in recipes:
        if overwrite and folder.resolve() in [Path(run).resolve() for run in recipe.parsed_options().runs()]:
            raise BadInput(
                f"--output {folder} is a run that {recipe.method} reads, and would be lost; choose another folder."
            )
    if not overwrite and folder.is_dir() and any(folder.iterdir()):
        what = "a finished run" if (folder / "prompt.json").is_file() else "an unfinished run"
        what = what if (folder / "run.json").is_file() else "files"
        raise BadInput(
            f"--output {folder} already holds {what}. Choose another folder, resume the run with --resume {folder}, "
            "or start over with --overwrite."
        )


def is_finished(folder: Path) -> bool:
    """Tell whether `folder` holds a finished run."""
    return (folder / FINISHED).is_file()
