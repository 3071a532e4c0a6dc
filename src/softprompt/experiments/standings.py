"""Compare the methods of finished runs on one task: scores, differences, curves, sizes.

An entry is a method (in one setting) with its runs, one for each seed.
"""

import statistics
from collections.abc import Mapping, Sequence

from softprompt.evaluation.bootstrap import Drawn
from softprompt.evaluation.floors import FLOORS
from softprompt.experiments.endpoints import ENDPOINTS, Draws, describe, values_of
from softprompt.experiments.finished_run import FinishedRun
from softprompt.experiments.tables import EndpointDifference, MethodRow, PairedDifference


def standings(entries: Mapping[str, Sequence[FinishedRun]], baseline: str, drawn: Draws) -> list[MethodRow]:
    """Make a row of each entry; `drawn` (softprompt.experiments.endpoints) says how they differ from the baseline."""
    rows = []
    for label, runs in entries.items():
        row = _row(label, runs, None if label == baseline else drawn["score"][label])
        rows.append(row.model_copy(update=_endpoints(label, runs, baseline, drawn)))
    return rows


def _endpoints(label: str, runs: Sequence[FinishedRun], baseline: str, drawn: Draws) -> dict[str, object]:
    """Return each run's value of each endpoint, and how they differ from the baseline's."""
    each = [values_of(run) for run in runs]
    shared = [endpoint for endpoint in ENDPOINTS if all(endpoint in one for one in each)]
    values = {"score": [run.score("test") for run in runs]}
    values |= {endpoint: [statistics.mean(one[endpoint]) for one in each] for endpoint in shared}
    differences: dict[str, EndpointDifference] = {
        endpoint: describe(endpoint, own[label])
        for endpoint, own in drawn.items()
        if label != baseline and label in own
    }
    return {"endpoints": values, "endpoint_differences": differences}


def _row(label: str, runs: Sequence[FinishedRun], difference: Drawn | None) -> MethodRow:
    first, test = runs[0], [run.score("test") for run in runs]
    return MethodRow(
        label=label,
        method=first.card.method,
        options=first.card.options,
        rates=first.run_card.recipe.rates,
        seeds=[run.card.seed for run in runs],
        test=test,
        mean=statistics.mean(test),
        deviation=statistics.stdev(test) if len(test) > 1 else None,
        dev=[run.score("dev") for run in runs],
        difference=None if difference is None else _paired(difference),
        steps=first.run_card.recipe.steps,
        batch=first.run_card.recipe.batch,
        best_steps=[run.card.best["step"] if run.card.best else 0 for run in runs],
        stopped=[run.card.stopped for run in runs],
        trainable=first.card.trainable,
        stored=first.card.stored,
        curves=[run.curve() for run in runs],
        folders=[str(run.folder) for run in runs],
    )  # fmt: skip


def floors_in(runs: Sequence[FinishedRun]) -> dict[str, float]:
    """Return the floors that the runs' cards hold, by name."""
    scores = runs[0].card.scores
    return {name: scores[name]["metrics"][runs[0].metric] for name in FLOORS if name in scores}


def _paired(drawn: Drawn) -> PairedDifference:
    found = drawn.difference()
    return PairedDifference(mean=found.mean, low=found.low, high=found.high, verdict=found.verdict)
