"""The documents that quote code quote what is there."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_example_of_a_new_method_is_the_code_as_it_stands() -> None:
    text = (ROOT / "docs" / "adding-a-method.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n# (\S+)\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 5
    for path, block in blocks:
        assert block in (ROOT / path).read_text(encoding="utf-8"), f"{path} no longer has: {block}"
