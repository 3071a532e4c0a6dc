"""Endpoints: what methods are compared by, on a task and in the mean over tasks.

    score        the task's first metric on test
    nll          negative log-likelihood of the right answer among the choices on test, in nats: every example counts
    steps_to_90  steps to nine tenths of what the dev loss fell from its first evaluation to its lowest, as a logarithm,
                 so that a difference is a ratio
    dev_area     mean dev loss over the steps of the run, in nats: the area under its curve

The first decides; the others say how sure and how fast. A method that has no numbers for one is left out of it.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from softprompt.evaluation.bootstrap import Drawn, draw_scores, draw_values, mean_over_tasks
from softprompt.experiments.finished_run import FinishedRun, read_references
from softprompt.experiments.tables import EndpointDifference, OverallEndpoint, OverallRow

Entries = Mapping[str, Sequence[FinishedRun]]
"""Finished runs of one task by method, one for each seed."""
Draws = Mapping[str, Mapping[str, Drawn]]
"""By endpoint and method: how it differs from the baseline."""
SHARE = 0.9


class Endpoint(NamedTuple):
    """How an endpoint is read and shown."""

    title: str
    lower_is_better: bool
    is_ratio: bool = False
    """Whether values are logarithms, shown as what they are the logarithms of."""


ENDPOINTS: Mapping[str, Endpoint] = {
    "score": Endpoint("score on test, points", lower_is_better=False),
    "nll": Endpoint("NLL of the right answer on test, nats", lower_is_better=True),
    "steps_to_90": Endpoint("steps to 90 % of the gain on dev", lower_is_better=True, is_ratio=True),
    "dev_area": Endpoint("mean dev loss over the run, nats", lower_is_better=True),
}


def values_of(run: FinishedRun) -> dict[str, list[float]]:
    """Return a run's numbers by endpoint, but for the score: one for each test example, or one for the run."""
    found = {}
    losses = run.answer_losses()
    if losses is not None:
        found["nll"] = losses
    curve = run.loss_curve()
    if len(curve) > 1:
        found["steps_to_90"] = [math.log(max(steps_to_share(curve, SHARE), 1.0))]
        found["dev_area"] = [mean_over_steps(curve)]
    return found


def steps_to_share(curve: Sequence[tuple[int, float]], share: float) -> float:
    """Return the steps after which a loss has fallen by `share` of its fall from its first to its lowest value.

    Between evaluations the loss is taken to fall evenly. A loss that never fell takes all steps.
    """
    lowest, first = min(loss for _, loss in curve), curve[0][1]
    wanted = first - share * (first - lowest)
    for (before, high), (after, low) in pairwise(curve):
        if low <= wanted < high:
            return before + (after - before) * (high - wanted) / (high - low)
    return float(curve[-1][0])


def mean_over_steps(curve: Sequence[tuple[int, float]]) -> float:
    """Return the mean of a curve over its steps, by trapezia."""
    parts = [(b - a) * (x + y) / 2 for (a, x), (b, y) in pairwise(curve)]
    return sum(parts) / (curve[-1][0] - curve[0][0])


def draw_endpoints(entries: Entries, baseline: str, *, paired: bool = True) -> dict[str, dict[str, Drawn]]:
    """Draw how each entry differs from the entry `baseline` on one task, by every endpoint that the runs have.

    All runs must have answered the same examples. `paired`: run i of every entry has the same seed.
    """
    first = next(iter(entries.values()))[0]
    references, groups = read_references(first)
    answers = {label: [run.predictions for run in runs] for label, runs in entries.items()}
    found = {"score": draw_scores([first.metric], answers, baseline, references, groups, paired=paired)}
    each = {label: [values_of(run) for run in runs] for label, runs in entries.items()}
    for endpoint in ENDPOINTS:
        able = {label: runs for label, runs in each.items() if all(endpoint in run for run in runs)}
        have = {label: [run[endpoint] for run in runs] for label, runs in able.items()}
        if baseline in have and len(have) > 1:
            # What is one number a run has no examples to draw.
            by_example = len(have[baseline][0]) == len(references)
            found[endpoint] = draw_values(have, baseline, groups if by_example else None, paired=paired)
    return found


def describe(endpoint: str, drawn: Drawn) -> EndpointDifference:
    """Make the part of a table that says a difference, its interval and its verdict."""
    found, kind = drawn.difference(), ENDPOINTS[endpoint]
    verdict = found.verdict
    if kind.lower_is_better:
        verdict = {"better": "worse", "worse": "better"}.get(verdict, verdict)
    return EndpointDifference(
        mean=found.mean, low=found.low, high=found.high, verdict=verdict, detectable=drawn.detectable()
    )


def shown(endpoint: str, value: float) -> str:
    """Write a value or a difference of values: points, nats, or for a logarithm what it is the logarithm of."""
    if ENDPOINTS[endpoint].is_ratio:
        return f"{math.exp(value):,.2f}" if abs(value) < 3 else f"{math.exp(value):,.0f}"
    return f"{100 * value:+.1f}" if endpoint == "score" else f"{value:+.3f}"


def shown_difference(endpoint: str, difference: EndpointDifference) -> str:
    """Write a difference with its interval, its verdict and the smallest that could have been seen."""
    times = "x" if ENDPOINTS[endpoint].is_ratio else ""
    ends = (difference.mean, difference.low, difference.high)
    mean, low, high = (f"{times}{shown(endpoint, value)}" for value in ends)
    seen = shown(endpoint, difference.detectable).removeprefix("+")
    return f"{mean} [{low}, {high}] {difference.verdict} (can see {times}{seen})"


def overall(tasks: Mapping[str, Draws], baseline: str) -> list[OverallEndpoint]:
    """Compare methods by their mean over tasks, on every endpoint that all of the tasks have."""
    found = []
    for endpoint, kind in ENDPOINTS.items():
        draws = [task.get(endpoint, {}) for task in tasks.values()]
        labels = [label for label in draws[0] if all(label in one for one in draws)]
        rows = [
            OverallRow(label=label, difference=describe(endpoint, mean_over_tasks([one[label] for one in draws])))
            for label in labels
            if label != baseline
        ]
        if rows:
            found.append(OverallEndpoint(endpoint=endpoint, title=kind.title, tasks=list(tasks), rows=rows))
    return found
