"""Download an adapter from the Hugging Face hub: its config and one file of weights, nothing else.

    owner/name              its newest commit
    owner/name@revision     a branch, tag or commit
    owner/name/some/folder  one of the folders in it

The weights are those in safetensors; only where there are none, the pickled ones, which are read as tensors alone
(weights_only).
"""

import re
from pathlib import Path

from softprompt.errors import BadInput, first_line

ON_HUB = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?P<inside>(/[\w.-]+)*)(@(?P<revision>[\w./-]+))?")


def fetch(name: str, config: str, *weights: str) -> tuple[Path, str]:
    """Download `config` and the first of `weights` that exists; return their folder, and `name` with its commit.

    Raises BadInput for a name that is not a hub id, and when the download fails.
    """
    found = ON_HUB.fullmatch(name)
    if found is None or name.startswith((".", "/")):
        raise BadInput(
            f"{name!r} is neither a folder nor a hub id (owner/name). Give a folder that PEFT has saved, or an id."
        )
    repo, inside, revision = found["repo"], found["inside"].strip("/"), found["revision"]
    for wanted in weights:
        names = [f"{inside}/{file}" if inside else file for file in (config, wanted)]
        place = _snapshot(repo, revision, names)
        revision = place.name  # the commit: all files of one state
        if (place / inside / wanted).is_file():
            break
    return place / inside, f"{repo}{'/' if inside else ''}{inside}@{revision}"


def _snapshot(repo: str, revision: str | None, names: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=names))
    except (OSError, ValueError) as error:  # the hub client's own errors are subclasses of these
        why = first_line(error)
        raise BadInput(
            f"{repo!r} is not a local folder, and cannot be downloaded from the Hugging Face hub ({why.rstrip('.')}). "
            f"Check name and network, or download {' and '.join(names)} elsewhere and give their folder."
        ) from None
