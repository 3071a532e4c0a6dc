"""Comparisons on tiny models: equal budgets, one test, and the same table after a stop."""

import csv
import json
import re
import statistics
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from rich.console import Console

import softprompt
from softprompt.errors import BadArtefact, BadInput, Interrupted, UnknownName
from softprompt.experiments.compare import Comparison, list_factors, make_entrants
from softprompt.experiments.compare_finished import compare_finished
from softprompt.experiments.reports.comparison_tables import as_csv, as_latex, as_markdown, escape_latex
from softprompt.experiments.reports.html_page import as_page
from softprompt.experiments.reports.svg_figure import as_picture
from softprompt.experiments.reports.svg_plots import Axis, Curve, Point, learning_curves, near, score_against, ticks
from softprompt.experiments.runner import Monitor
from softprompt.experiments.tables import ComparisonTable
from softprompt.training.arguments import RunArguments
from softprompt.training.request import parse_arguments
from tests import tiny
from tests.command_line import Cli
from tests.many_runs import after, data_folder, never_loaded

METHODS = ["prompt_tuning", "dept", "superpos"]
SETTINGS = {"steps": 4, "batch": 4, "evaluate_every": 2, "length": 2, "rank": 2, "sampled": 8, "pool": None}
Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    model = tiny.save_tiny("llama", tmp_path_factory.mktemp("models") / "llama", "true false neither")
    return {"data_dir": str(data_folder(tmp_path_factory.mktemp("data"))), "backbone": model, "settings": SETTINGS}


@pytest.fixture(scope="module")
def compare(words: dict[str, Any]) -> Run:
    def run(output: Path, **more: Any) -> dict[str, Any]:
        given: dict[str, Any] = {"tasks": ["glue/rte", "cb"], "methods": METHODS, "seeds": 2, "budget": 2, **words}
        return softprompt.compare(output=output, console=Console(quiet=True), **{**given, **more}).as_json()

    return run


@pytest.fixture(scope="module")
def done(compare: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    output = tmp_path_factory.mktemp("compared") / "run"
    return output, compare(output)


def cards(output: Path) -> dict[str, dict[str, Any]]:
    return {str(path.parent.relative_to(output)): json.loads(path.read_text()) for path in output.rglob("prompt.json")}


def without_costs(found: dict[str, Any]) -> dict[str, Any]:
    """What does not depend on how busy the machine was."""
    plain = json.loads(json.dumps(found))
    for part in plain["tasks"]:
        del part["seconds"]
        for row in part["rows"]:
            del row["costs"]
    return plain  # type: ignore[no-any-return]


def test_every_method_has_the_same_tries_steps_and_seeds(done: tuple[Path, dict[str, Any]]) -> None:
    output, found = done
    every = cards(output)
    assert len(every) == 2 * 3 * (2 + 1)
    for part in found["tasks"]:
        assert [row["label"] for row in part["rows"]] == METHODS
        for row in part["rows"]:
            assert [one["factor"] for one in row["tried"]] == [1.0, 0.3]
            rates = [next(iter(one["rates"].values())) for one in row["tried"]]
            assert rates[1] == pytest.approx(0.3 * rates[0])
            assert row["factor"] == max(row["tried"], key=lambda one: one["dev"])["factor"]
            assert row["rates"] == next(one["rates"] for one in row["tried"] if one["factor"] == row["factor"])
            assert (row["seeds"], row["steps"], row["batch"]) == ([0, 1], 4, 4)
            assert row["test"] == [every[f]["scores"]["test"]["metrics"][part["metric"]] for f in row["folders"]]
            assert row["mean"] == pytest.approx(statistics.mean(row["test"]))
            assert row["deviation"] == pytest.approx(statistics.stdev(row["test"]))
            assert [[step for step, _ in curve] for curve in row["curves"]] == [[2, 4], [2, 4]]
            assert row["trainable"] == every[row["folders"][0]]["trainable"]
            assert row["costs"]["tokens_per_second"] > 0
            assert row["costs"]["minutes"] == row["costs"]["seconds_per_step"] * 4 / 60
    tested = {folder for folder, card in every.items() if "test" in card["scores"]}
    assert tested == {folder for part in found["tasks"] for row in part["rows"] for folder in row["folders"]}


def test_the_baseline_is_compared_with_and_the_floors_stand_beside(done: tuple[Path, dict[str, Any]]) -> None:
    output, found = done
    for part in found["tasks"]:
        base, *others = part["rows"]
        assert (part["baseline"], base["difference"]) == ("prompt_tuning", None)
        for row in others:
            difference = row["difference"]
            assert difference["mean"] == pytest.approx(row["mean"] - base["mean"])
            assert difference["low"] <= difference["mean"] <= difference["high"]
            assert (difference["verdict"] == "tie") == (difference["low"] <= 0 <= difference["high"])
        floors = json.loads((output / part["task"].replace("/", "-") / "floors.json").read_text())
        assert part["floors"] == {name: one["metrics"][part["metric"]] for name, one in floors.items()}
    assert json.loads((output / "table.json").read_text()) == json.loads(json.dumps(found))
    text = (output / "table.md").read_text()
    assert all(f"| {method} |" in text for method in METHODS)
    assert "2 tried settings" in text
    assert "4 steps of 4 examples" in text


def test_methods_are_compared_by_the_mean_over_tasks_too(done: tuple[Path, dict[str, Any]]) -> None:
    """The score, the loss on test, and how fast the dev loss falls; each as a difference to the baseline."""
    output, found = done
    endpoints = ["score", "nll", "steps_to_90", "dev_area"]
    assert [one["endpoint"] for one in found["overall"]] == endpoints
    for one in found["overall"]:
        assert (one["tasks"], [row["label"] for row in one["rows"]]) == (["glue/rte", "superglue/cb"], METHODS[1:])
    rows = {part["task"]: {row["label"]: row for row in part["rows"]} for part in found["tasks"]}
    for one in found["overall"]:
        for row in one["rows"]:
            less = [rows[task][row["label"]]["endpoint_differences"][one["endpoint"]] for task in one["tasks"]]
            assert row["difference"]["mean"] == pytest.approx((less[0]["mean"] + less[1]["mean"]) / 2)
    for part in rows.values():
        for row in part.values():
            for folder, loss in zip(row["folders"], row["endpoints"]["nll"], strict=True):
                lines = (output / folder / "predictions-test.jsonl").read_text().splitlines()
                records = [json.loads(line) for line in lines]
                scores = torch.tensor([list(one["scores"].values()) for one in records])
                right = [list(one["scores"]).index(one["target"]) for one in records]
                expected = torch.nn.functional.cross_entropy(scores, torch.tensor(right))
                assert loss == pytest.approx(float(expected), rel=1e-4)
    text = (output / "table.md").read_text()
    assert "Mean over 2 tasks, less prompt_tuning" in text
    assert re.search(r"\| dept \| steps to 90 % of the gain on dev \| [\d.]+ \(\d+ s\) \|", text)
    assert "Mean over 2 tasks, less prompt_tuning" in (output / "report.html").read_text()
    assert (output / "table.csv").read_text().count("mean over tasks,") == 8
    assert any("Smallest difference that can be seen" in note for note in found["notes"])


def test_a_file_of_data_stands_beside_other_tasks(compare: Run, tmp_path: Path) -> None:
    kinds = (("nice", "true"), ("poor", "false"))
    rows = "".join(f"{kinds[i % 2][0]} thing number {i} indeed,{kinds[i % 2][1]}\n" for i in range(40))
    (tmp_path / "things.csv").write_text(f"text,label\n{rows}")
    found = compare(
        tmp_path / "run", tasks=["cb", str(tmp_path / "things.csv")], methods=METHODS, budget=1, seeds=1, rivals=(),
    )  # fmt: skip
    assert [part["task"] for part in found["tasks"]] == ["superglue/cb", "things"]
    assert list(found["tasks"][1]["floors"]) == ["majority", "zero_shot"]
    assert found["overall"][0]["tasks"] == ["superglue/cb", "things"]


def test_one_method_enters_under_several_labels(compare: Run, tmp_path: Path) -> None:
    found = compare(
        tmp_path, tasks="cb", methods=["few=superpos", "many=superpos"], budget=1, seeds=1, rivals=(),
        settings={"steps": 2, "batch": 4, "length": 2, "sampled": 8, "pool": None, "many.sampled": 12},
    )  # fmt: skip
    (part,) = found["tasks"]
    assert part["baseline"] == "few"
    rows = {row["label"]: (row["method"], row["options"]["sampled"]) for row in part["rows"]}
    assert rows == {"few": ("superpos", 8), "many": ("superpos", 12)}
    assert {Path(row["folders"][0]).parts[1] for row in part["rows"]} == {"few", "many"}
    assert list(found["methods"]) == ["few", "many"]


def test_what_can_be_seen_is_read_from_a_pilot(done: tuple[Path, dict[str, Any]], compare: Run, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="--spread and --pilot"):
        compare(tmp_path / "run", spread="1,2", pilot=done[0])
    with pytest.raises(BadInput, match="--spread 'much'"):
        compare(tmp_path / "run", spread="much")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("steps", [2, 6, 15])
def test_an_interrupted_comparison_goes_on_to_the_same_table(
    steps: int, done: tuple[Path, dict[str, Any]], words: dict[str, Any], compare: Run, tmp_path: Path
) -> None:
    """Inside the tries of the first task, inside its other seeds, inside the second task."""
    requests = [parse_arguments(RunArguments(task=task, **words)) for task in ("glue/rte", "cb")]
    made = Comparison(
        tmp_path, [one.task for one in requests], requests[0].setting, make_entrants(METHODS, SETTINGS, 256), seeds=2,
        budget=2, baseline="prompt_tuning",
    )  # fmt: skip
    with pytest.raises(Interrupted):
        made.run(Monitor(interrupted=after(steps)))
    assert len(cards(tmp_path)) == {2: 0, 6: 6, 15: 15}[steps]
    assert without_costs(compare(tmp_path)) == without_costs(done[1])


def test_the_same_call_again_trains_nothing(done: tuple[Path, dict[str, Any]], compare: Run) -> None:
    output, found = done
    before = {path: path.stat().st_mtime_ns for path in output.rglob("seed-*/*")}
    assert compare(output) == found
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_folder_of_other_words_is_refused(done: tuple[Path, dict[str, Any]], compare: Run) -> None:
    with pytest.raises(BadInput, match="holds a run with another recipe"):
        compare(done[0], settings=SETTINGS | {"steps": 6})
    with pytest.raises(BadInput, match="holds a run with another setting"):
        compare(done[0], max_source=9)


def test_factors_go_out_from_the_defaults_by_half_decades() -> None:
    assert list_factors(1) == [1.0]
    assert list_factors(6) == [1.0, 0.3, 3.0, 0.1, 10.0, 0.03]


def test_one_method_may_have_settings_of_its_own(
    done: tuple[Path, dict[str, Any]], compare: Run, tmp_path: Path
) -> None:
    source = done[0] / done[1]["tasks"][1]["rows"][0]["folders"][0]
    settings = SETTINGS | {"attempt.sources": str(source), "attempt.width": 4, "spot.start_from": str(source),
                           "dept.rank": 1}  # fmt: skip
    settings = {name: value for name, value in settings.items() if name not in ("pool", "sampled")}
    found = compare(
        tmp_path, tasks="glue/rte", methods=["dept", "attempt", "spot"], settings=settings, seeds=1, budget=1
    )  # fmt: skip
    rows = {row["method"]: row for row in found["tasks"][0]["rows"]}
    assert found["tasks"][0]["baseline"] == "dept"
    assert rows["dept"]["options"]["rank"] == 1
    assert rows["attempt"]["options"]["sources"] == [str(source.resolve())]
    assert rows["spot"]["deviation"] is None
    assert "nothing is said of seeds" in " ".join(found["notes"])


def test_baselines_that_change_the_network_stand_in_the_same_table(compare: Run, tmp_path: Path) -> None:
    found = compare(
        tmp_path, tasks="glue/rte", methods=["prompt_tuning", "full", "peft:lora"], budget=2, seeds=2,
        settings={"steps": 2, "evaluate_every": 2, "batch": 4, "peft:lora.rank": 1},
    )  # fmt: skip
    rows = {row["label"]: row for row in found["tasks"][0]["rows"]}
    assert rows["peft:lora"]["options"]["rank"] == 1
    for row in rows.values():
        tests = [json.loads((tmp_path / f / "prompt.json").read_text())["scores"]["test"] for f in row["folders"]]
        assert row["test"] == [test["metrics"]["accuracy"] for test in tests]
        # What is measured of a run that is read again is what is measured of one that has just ended.
        first, *_ = row["folders"]
        card = json.loads((tmp_path / first / "prompt.json").read_text())
        own = {"dev", "test", "test_generated"}
        assert set(card["scores"]) == own | {"majority", "zero_shot", "tfidf", "probe", "calibrated"}
        assert row["costs"]["seconds_per_step"] > 0


def test_a_method_that_cannot_be_made_here_is_refused_before_the_first_step(compare: Run, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no tensor whose name ends in 'bias'"):
        compare(tmp_path, tasks="glue/rte", methods=["prompt_tuning", "bitfit"], settings={"steps": 2})
    assert not list(tmp_path.rglob("run.json"))


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        ({"methods": ["dept"]}, BadInput, "two or more"),
        ({"methods": ["dept", "deptt"]}, UnknownName, "Did you mean 'dept'"),
        ({"methods": ["dept", "dept"]}, BadInput, "each method once"),
        ({"methods": ["a=dept", "a=superpos"]}, BadInput, "names a twice"),
        ({"methods": ["dept=superpos", "dept"]}, BadInput, "dept is a method itself"),
        ({"methods": ["a.b=dept", "dept"]}, BadInput, "a label of letters"),
        ({"methods": ["dept", "superpos", "spot"]}, BadInput, "--start-from"),
        ({"baseline": "adept"}, UnknownName, "baseline"),
        ({"tasks": ["glue/rte", "glue/rt"]}, UnknownName, "Did you mean"),
        ({"tasks": ["glue/rte", "glue/rte"]}, BadInput, "each task once"),
        ({"seeds": 0}, BadInput, "--seeds 0"),
        ({"budget": 0}, BadInput, "--budget 0"),
        ({"settings": {"stps": 3}}, UnknownName, "Did you mean 'steps'"),
        ({"settings": {"dept.rnk": 3}}, UnknownName, "Did you mean 'rank'"),
        ({"settings": {"dept.steps": 3}}, BadInput, "all methods of a comparison have the same steps"),
        ({"settings": {"spot.start_from": "no"}, "methods": ["dept", "spot"]}, BadArtefact, "no is not a folder"),
        ({"backbone": "gpt5"}, BadInput, "gpt5"),
    ],
)
def test_bad_words_are_refused_before_anything_is_loaded_or_written(
    more: dict[str, Any], error: type[Exception], message: str, compare: Run, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setitem(Comparison.run.__globals__, "open_backbone", never_loaded)
    with pytest.raises(error) as caught:
        compare(tmp_path / "run", **more)
    assert message in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_shipped_task_stands_beside_published_ones(
    compare: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(Comparison.run.__globals__, "open_backbone", never_loaded)
    with pytest.raises(AssertionError):  # all words were understood: the folder of data is not the shipped task's
        compare(tmp_path / "run", tasks=["support", "glue/rte"])
    with pytest.raises(BadInput, match="--data-dir"):
        compare(tmp_path / "run", tasks=["support"])


def test_the_command_prints_a_table_or_one_json_document(
    cli: Cli, done: tuple[Path, dict[str, Any]], words: dict[str, Any]
) -> None:
    output, found = done
    line = ["compare", "--task", "glue/rte", "--task", "cb", "--methods", ",".join(METHODS),
            "--backbone", words["backbone"], "--output", output, "--data-dir", words["data_dir"],
            "--seeds", 2, "--budget", 2,
            *(f"--set={name}={json.dumps(value)}" for name, value in SETTINGS.items())]  # fmt: skip
    code, out, err = cli(*line)
    assert code == 0, err
    assert "0 of 6 runs to do" in err
    assert all(word in out for word in ("glue/rte: accuracy", "superglue/cb: macro_f1", "baseline", "2 tried settings"))
    code, out, err = cli(*line, "--json")
    assert code == 0, err
    assert json.loads(out) == found
    code, out, err = cli("compare", "--task", "glue/rte")
    assert (code, out) == (2, "")
    assert "compare needs" in err


# Text


def strange() -> ComparisonTable:
    row = {
        "label": 'a_b, "c" & 5% {x}~^\\|', "method": "dept", "options": {}, "rates": {}, "seeds": [0], "dev": [0.5],
        "mean": 0.5, "deviation": 0.01, "test": [0.5], "steps": 4, "batch": 4, "best_steps": [4], "stopped": [None],
        "curves": [], "folders": [],
        "difference": {"mean": 0.1, "low": -0.1, "high": 0.3, "verdict": "tie"}, "trainable": 1234, "stored": 7,
    }  # fmt: skip
    part = {
        "task": "my_task", "metric": "accuracy", "baseline": "b", "test_examples": 12, "floors": {"majority": 0.25},
        "rows": [row],
    }  # fmt: skip
    table = {"format": 1, "title": "two", "backbone": "llama", "budget": None, "notes": ["a note"], "tasks": [part]}
    return ComparisonTable.model_validate({**table, "versions": {}})


def test_csv_says_every_value_as_it_is() -> None:
    rows = list(csv.DictReader(as_csv(strange()).splitlines()))
    assert rows[0]["label"] == "majority"
    assert rows[1]["label"] == 'a_b, "c" & 5% {x}~^\\|'
    assert (rows[1]["mean"], rows[1]["low"], rows[1]["verdict"], rows[1]["minutes"]) == ("0.5", "-0.1", "tie", "")


def test_latex_and_markdown_keep_what_they_must_not_read() -> None:
    text = as_latex(strange())
    assert r'a\_b, "c" \& 5\% \{x\}\textasciitilde{}\textasciicircum{}\textbackslash{}|' in text
    assert r"50.0 $\pm$ 1.0 & +10.0 [-10.0, +30.0] & tie & 1,234" in text
    assert r"\caption{my\_task: accuracy" in text
    for line in text.splitlines():
        if line.endswith(r"\\"):
            assert line.replace(r"\&", "").count("&") == 8
    assert escape_latex("#$") == r"\#\$"
    line = next(line for line in as_markdown(strange()).splitlines() if line.startswith("| a_b"))
    assert line.replace(r"\|", "").count("|") == 10


# The page


class Reader(HTMLParser):
    """Checks that tags are closed in order, and keeps every attribute and word."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read_page(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    return reader


def test_the_page_is_whole_and_needs_nothing_else(done: tuple[Path, dict[str, Any]]) -> None:
    text = (done[0] / "report.html").read_text()
    page = read_page(text)
    assert page.tags.count("svg") == 2 * (3 + 2), "a task: three plots, and an interval for all but the baseline"
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert not {"src", "href", "srcset", "onload"} & {name for name, _ in page.attributes}
    assert "url(" not in text
    assert "@import" not in text
    assert "http" not in text
    assert "prefers-color-scheme: dark" in text
    for method in METHODS:
        assert page.text.count(method) >= 2 * 5
    for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        assert ElementTree.fromstring(svg).get("viewBox") is not None
        assert "nan" not in svg
    used, defined = set(re.findall(r"var\((--\w+)\)", text)), set(re.findall(r"(--\w+):", text))
    assert used <= defined
    light, dark = text.split("prefers-color-scheme: dark", 1)
    assert set(re.findall(r"(--\w+):", dark)) == set(re.findall(r"(--\w+):", light)), "each colour has its dark one"


def test_the_page_keeps_what_it_must_not_read(done: tuple[Path, dict[str, Any]]) -> None:
    found = json.loads(json.dumps(done[1]))
    evil = '<script>alert("1")</script>&'
    found["title"] = found["tasks"][0]["task"] = found["tasks"][0]["rows"][1]["label"] = evil
    found["tasks"][0]["rows"][1]["tried"][0]["stopped"] = evil
    page = read_page(as_page(ComparisonTable.model_validate(found)))
    assert "script" not in page.tags
    assert page.text.count(evil) >= 5


def test_the_picture_shows_every_score_where_it_is(done: tuple[Path, dict[str, Any]]) -> None:
    found = json.loads(json.dumps(done[1]))
    found["title"] = "<b>&"
    for part in found["tasks"]:
        part["rows"][1]["label"] = "<b>&"
    tree = ElementTree.fromstring(as_picture(ComparisonTable.model_validate(found)))
    kinds = [circle.get("class") for circle in tree.iter("{http://www.w3.org/2000/svg}circle")]
    assert len(kinds) == 2 * 3 * (2 + 1), "on each of two tasks, for each of three methods: two seeds and their mean"
    assert kinds.count("baseline") == 2
    texts = ["".join(text.itertext()) for text in tree.iter("{http://www.w3.org/2000/svg}text")]
    assert {"<b>&", "prompt_tuning", "superpos", "glue/rte, accuracy"} <= set(texts)
    titles = ["".join(text.itertext()) for text in tree.iter("{http://www.w3.org/2000/svg}title")]
    rows = [row for part in found["tasks"] for row in part["rows"]]
    for row, title in zip(rows, titles, strict=True):
        assert title.startswith(f"{row['label']}: {100 * row['mean']:.1f}")


def test_a_page_of_one_seed_and_of_equal_scores_has_no_empty_axis(done: tuple[Path, dict[str, Any]]) -> None:
    found = json.loads(json.dumps(done[1]))
    for part in found["tasks"]:
        for row in part["rows"]:
            row |= {"mean": 0.0, "test": [0.0], "deviation": None, "curves": [[[2, 0.0]]], "trainable": 10}
            row["difference"] = row["difference"] and {"mean": 0.0, "low": 0.0, "high": 0.0, "verdict": "tie"}
        part["floors"] = {"majority": 0.0}
    text = as_page(ComparisonTable.model_validate(found))
    read_page(text)
    ElementTree.fromstring(as_picture(ComparisonTable.model_validate(found)))
    assert "nan" not in text
    assert "inf" not in re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)


def test_points_stand_where_their_scores_are() -> None:
    rows = [Curve("a", [(0, 0.2, 0.1, 0.3), (10, 0.8, 0.7, 0.9)])]
    svg = ElementTree.fromstring(learning_curves(rows, "dev"))
    (x0, y0), (x1, y1) = (map(float, p.split(",")) for p in svg.find("polyline").get("points").split())  # type: ignore
    circles = [(float(c.get("cx")), float(c.get("cy"))) for c in svg.iter("circle")]  # type: ignore[arg-type]
    assert circles == [(x0, y0), (x1, y1)]
    grid = {e.text: float(e.get("y")) - 4 for e in svg.iter("text") if e.get("text-anchor") == "end"}  # type: ignore
    low, high = grid["20"], grid["80"]
    assert (y0, y1) == (pytest.approx(low, abs=0.2), pytest.approx(high, abs=0.2))
    assert ticks(0.0, 1.0) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(0.61, 0.68) == [0.62, 0.64, 0.66, 0.68]
    axis = Axis(100, 10000, 0, 200, log=True)
    assert (axis(100), axis(1000), axis(10000)) == (0, pytest.approx(100), 200)


def test_names_of_points_do_not_meet() -> None:
    points = [Point(f"method_{i}", 1000 + i, 0.8 + i / 1e4) for i in range(8)]
    svg = ElementTree.fromstring(score_against(points, "values", "test", [("floor", 0.8)], log=True))
    places = [(float(t.get("x")), float(t.get("y"))) for t in svg.iter("text") if t.get("class") == "name"]  # type: ignore
    assert len(places) == 8
    for i, (x, y) in enumerate(places):
        assert all(abs(y - b) >= 12 or abs(x - a) >= 50 for a, b in places[i + 1 :])
    assert near(points, [("low", 0.1), ("beside", 0.799)]) == [("beside", 0.799)]


# Finished runs


def test_finished_runs_say_what_the_comparison_said(
    cli: Cli, done: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    output, whole = done
    tested = [output / folder for part in whole["tasks"] for row in part["rows"] for folder in row["folders"]]
    found = compare_finished(tested, output=tmp_path / "out").as_json()
    for part, other in zip(found["tasks"], whole["tasks"], strict=True):
        assert (part["task"], part["floors"]) == (other["task"], other["floors"])
        for row, expected in zip(part["rows"], other["rows"], strict=True):
            assert row["label"] == expected["method"]
            assert (row["test"], row["difference"]) == (expected["test"], expected["difference"])
    assert "budgets may differ" in found["notes"][0]
    assert (tmp_path / "out" / "report.html").is_file()
    assert (tmp_path / "out" / "scores.svg").is_file()
    # A folder stands for all that it holds and that was tested.
    code, out, err = cli("compare", output, "--json")
    assert code == 0, err
    by_label = [{row["label"]: row for row in part["rows"]} for part in json.loads(out)["tasks"]]
    assert by_label == [{row["label"]: json.loads(json.dumps(row)) for row in part["rows"]} for part in found["tasks"]]
    code, out, err = cli("compare", output, "--baseline", "dept")
    assert "dept" in out
    assert "baseline" in out


def test_unequal_runs_are_named_and_runs_that_cannot_be_compared_refused(
    done: tuple[Path, dict[str, Any]], words: dict[str, Any], tmp_path: Path
) -> None:
    base, other = done[1]["tasks"][0]["rows"][:2]
    folders = [done[0] / folder for folder in (*base["folders"], *other["folders"][:1])]
    found = compare_finished(folders).as_json()
    assert "glue/rte: unequal seeds: prompt_tuning 2; dept 1." in found["notes"]

    def train(name: str, **more: Any) -> Path:
        given = {"task": "glue/rte", "method": "dept", **words, **more}
        given["settings"] = {"steps": 2, "evaluate_every": 2, "length": 3, "rank": 2, **more.get("settings", {})}
        softprompt.train(output=tmp_path / name, console=Console(quiet=True), **given)
        return tmp_path / name

    short = train("short")
    found = compare_finished([*folders[:2], short]).as_json()
    assert "glue/rte: unequal steps: prompt_tuning 4; dept 2." in found["notes"]
    labels = [row.label for row in compare_finished([folders[2], short]).tasks[0].rows]
    assert len(labels) == 2
    assert all(label.startswith("dept (length=") for label in labels)
    with pytest.raises(BadInput, match="the same method in the same setting with the same seed"):
        compare_finished([short, short, folders[0]])
    with pytest.raises(BadInput, match="all of one method in one setting"):
        compare_finished([short])
    with pytest.raises(BadInput, match="tested on different examples"):
        compare_finished([short, train("few", limit={"test": 5})])
    bart = tiny.save_tiny("bart", tmp_path / "bart", "true false neither")
    with pytest.raises(BadInput, match="different backbones"):
        compare_finished([short, train("bart-run", backbone=bart)])
    tried = next(f for f, card in cards(done[0]).items() if "test" not in card["scores"])
    with pytest.raises(BadInput, match="without a test score"):
        compare_finished([done[0] / tried])
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="holds no finished run"):
        compare_finished([tmp_path / "empty"])
    with pytest.raises(UnknownName, match="baseline"):
        compare_finished(folders, baseline="superpos")


def test_runs_and_words_for_new_ones_do_not_go_together(cli: Cli, done: tuple[Path, dict[str, Any]]) -> None:
    code, out, err = cli("compare", done[0], "--methods", "dept,superpos")
    assert (code, out) == (2, "")
    assert "--methods would make new ones" in " ".join(err.split())
