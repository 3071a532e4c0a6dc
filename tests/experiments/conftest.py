"""The data of the sweeps, here and on a cluster."""

import json
from pathlib import Path

import pytest

from tests.candidates import tiny_task


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "messages.jsonl"
    rows = [{"text": e.source + " yes" * i, "label": e.target} for i in range(5) for e in tiny_task().examples["train"]]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
