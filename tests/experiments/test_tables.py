"""Tables as objects: what 0.1.0 wrote is read, and written as it was."""

import inspect
import json
from pathlib import Path
from typing import Any

import pytest

import softprompt
from softprompt.errors import BadArtefact, UnknownName
from softprompt.experiments.arguments import ReproduceArguments
from softprompt.experiments.reports.comparison_tables import as_markdown
from softprompt.experiments.tables import ComparisonTable, ReproductionTable, SweepTable, TablePart
from softprompt.recipes import Setting
from softprompt.tasks.published.spec import PublishedRows
from softprompt.training.arguments import CommonArguments

ROOT = Path(__file__).parents[2]
OLD = ROOT / "tests" / "fixtures" / "v0_1_0"
TABLES: list[tuple[type[TablePart], Path]] = [
    (SweepTable, OLD / "sweep" / "table.json"),
    (ComparisonTable, OLD / "compare" / "table.json"),
    *((ComparisonTable, path) for path in sorted((ROOT / "results" / "compare").glob("*/table.json"))),
    *((ReproductionTable, path) for path in sorted((ROOT / "results" / "fair").glob("*.json"))),
]


@pytest.mark.parametrize(("kind", "path"), TABLES)
def test_a_table_is_written_as_it_was_read(kind: type[TablePart], path: Path) -> None:
    table = kind.read(path)
    assert json.dumps(table.as_json(), indent=2, ensure_ascii=False) + "\n" == path.read_text(encoding="utf-8")
    assert "\n" not in repr(table)
    assert len(repr(table)) < 200


def test_a_sweep_says_what_was_chosen() -> None:
    table = SweepTable.read(OLD / "sweep")
    assert table.chosen.values == {"rates.weights": 0.1}
    assert table.chosen.mean == max(row.mean for row in table.settings)
    assert table.floors.keys() == {"majority", "zero_shot"}
    assert repr(table.chosen).startswith("ChosenSetting('rates.weights=0.1', dev ")
    assert (table.halving, table.chosen.deviation) == (None, None)


def test_a_comparison_has_rows_and_differences_by_task_and_method() -> None:
    table = ComparisonTable.read(OLD / "compare")
    part = table.task("messages")
    assert part.row(part.baseline).difference is None
    other = next(row for row in part.rows if row.difference)
    assert other.difference is not None
    assert other.difference.low <= other.difference.mean <= other.difference.high
    assert other.difference.verdict in ("better", "worse", "tie")
    assert (OLD / "compare" / "table.md").read_text(encoding="utf-8") == as_markdown(table)
    with pytest.raises(UnknownName, match="Did you mean 'messages'"):
        table.task("message")


def test_a_reproduction_has_cells_by_line_and_task() -> None:
    table = ReproductionTable.read(TABLES[-1][1])
    cell = table.cell("dept", "glue/sst2")
    assert cell.mean == pytest.approx(sum(cell.scores) / len(cell.scores))
    assert cell.published is None
    with pytest.raises(UnknownName, match="Did you mean 'dept'"):
        table.cell("dep", "glue/sst2")


@pytest.mark.parametrize(
    ("text", "message"), [("{", "not a valid table.json"), ('{"format": 1}', "task: Field required")]
)
def test_what_is_not_a_table_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "table.json").write_text(text)
    with pytest.raises(BadArtefact, match=message):
        SweepTable.read(tmp_path)
    with pytest.raises(BadArtefact, match="cannot be read"):
        SweepTable.read(tmp_path / "other.json")


def test_reproduce_takes_what_is_declared_and_says_what_runs_say() -> None:
    fields: dict[str, Any] = ReproduceArguments.model_fields
    assert set(inspect.signature(softprompt.reproduce).parameters) == set(fields)
    for model in (PublishedRows, CommonArguments, Setting):
        for name in set(fields) & set(model.model_fields) - {"backbone", "console"}:
            assert fields[name].description == model.model_fields[name].description
