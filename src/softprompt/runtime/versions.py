"""Warn about packages that are newer than what this version was tested with."""

import importlib.metadata
import warnings
from functools import cache

TESTED = {"torch": "2.13", "transformers": "5.23", "peft": "0.21"}
"""Newest release of each package whose insides we rely on that the tests have passed with."""


@cache
def warn_of_newer(package: str) -> None:
    """Warn, once in a process, where the installed `package` is newer than the newest tested."""
    installed = importlib.metadata.version(package)
    if _release(installed) > _release(TESTED[package]):
        warnings.warn(
            f"{package} {installed} is newer than {TESTED[package]}, the newest that this version of softprompt was "
            f"tested with. If something fails, or answers change, install {package}=={TESTED[package]}.*",
            stacklevel=3,
        )


def _release(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int(minor)
