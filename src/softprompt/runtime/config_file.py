"""Read a file of settings: YAML or JSON, with YAML 1.2's numbers and booleans."""

import json
import re
from pathlib import Path

import yaml

from softprompt.errors import BadInput
from softprompt.runtime.files import JsonObject


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Reads YAML 1.2's numbers and booleans: in YAML 1.1, which PyYAML reads, 1e-4 is text and the word no is false."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if not tag.endswith(":bool") or first in "tTfF"]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def read_mapping(path: Path, expected: str, keys: str) -> JsonObject:
    """Read a file of names and values.

    Args:
        path: A YAML or JSON file.
        expected: What it should be, for messages.
        keys: Some of the names that it may have, for messages.

    Raises:
        BadInput: With the file and, where one is at fault, the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
        # JSON may be indented with tabs, YAML may not.
        value = json.loads(text) if text.lstrip().startswith("{") and path.suffix == ".json" else _load_yaml(text)
    except json.JSONDecodeError as error:
        raise BadInput(f"{path}, line {error.lineno}: is not valid JSON ({error.msg}).") from None
    except FileNotFoundError:
        raise BadInput(f"{path}: there is no such file; expected {expected}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read: {error}.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise BadInput(f"{path}{line}: is neither YAML nor JSON ({getattr(error, 'problem', error)}).") from None
    if not isinstance(value, dict):
        raise BadInput(f"{path}: expected keys like {keys}; found {type(value).__name__}.")
    return value


def _load_yaml(text: str) -> object:
    return yaml.load(text, Loader=_Loader)  # a SafeLoader
