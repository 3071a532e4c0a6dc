"""The documents that quote code quote what is there, and their notebook cells run (tests/methods/test_extension.py)."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_example_of_a_new_method_is_the_code_as_it_stands() -> None:
    text = (ROOT / "docs" / "adding-a-method.md").read_text(encoding="utf-8")
    blocks = [(path, block) for path, block in re.findall(r"```python\n# ([^\n]+)\n(.*?)```", text, re.DOTALL)]
    quoted = [(path, block) for path, block in blocks if path.endswith(".py")]
    assert (len(blocks), len(quoted)) == (7, 5)
    for path, block in quoted:
        assert block in (ROOT / path).read_text(encoding="utf-8"), f"{path} no longer has: {block}"
