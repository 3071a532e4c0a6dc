"""Metrics in Prometheus' format, at /metrics. They hold no keys, and names of prompts only where that is asked for."""

import time
from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.routing import Match, Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from softprompt.serving.engine.engine import Engine
from softprompt.serving.engine.sequence import Question
from softprompt.serving.engine.watch import Watch
from softprompt.serving.http.access_log import HEADER, AccessLog, request_id
from softprompt.serving.prompt_store import PromptStore
from softprompt.serving.store_folder import BASE

ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
OTHER = "(other)"
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics(Watch):
    """Count what the engine and the routes do, in a registry of their own.

    Args:
        per_prompt: How many prompts are counted by name, the first that are asked; all others are "other". 0: no names.
    """

    def __init__(self, per_prompt: int = 0) -> None:
        self.per_prompt = per_prompt
        self._named: set[str] = set()
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second line beside each
        self.registry = CollectorRegistry()
        self.rows = Histogram(
            "softprompt_batch_rows", "Requests that one pass of the network serves.", ["work"], buckets=ROWS,
            registry=self.registry,
        )  # fmt: skip
        self.queued, self.first = (
            Histogram(name, text, ["prompt"], buckets=SECONDS, registry=self.registry)
            for name, text in (
                ("softprompt_queue_seconds", "Time in the queue."),
                ("softprompt_first_token_seconds", "Time from a request to its first token."),
            )
        )
        self.per_token = Histogram(
            "softprompt_token_seconds", "Time a token after the first, the mean of an answer.", ["prompt"],
            buckets=TOKEN_SECONDS, registry=self.registry,
        )  # fmt: skip
        self.read, self.made = (
            Counter(name, text, ["prompt"], registry=self.registry)
            for name, text in (
                ("softprompt_prompt_tokens", "Source tokens that were read; a prompt's own rows are not counted."),
                ("softprompt_completion_tokens", "Tokens that were generated."),
            )
        )
        self.latency = Histogram(
            "softprompt_request_seconds", "Time to the end of the answer.", ["route", "method"], buckets=SECONDS,
            registry=self.registry,
        )  # fmt: skip
        self.requests = Counter(
            "softprompt_requests", "Answered requests.", ["route", "method", "status"], registry=self.registry
        )

    def on_rank(self, rows: int) -> None:
        self.rows.labels("rank").observe(rows)

    def on_join(self, rows: int) -> None:
        self.rows.labels("join").observe(rows)

    def on_step(self, rows: int) -> None:
        self.rows.labels("step").observe(rows)

    def on_leave_queue(self, question: Question, seconds: float) -> None:
        label = self._label(question)
        self.queued.labels(label).observe(seconds)
        self.read.labels(label).inc(len(question.source))

    def on_first_token(self, question: Question, seconds: float) -> None:
        self.first.labels(self._label(question)).observe(seconds)

    def on_end(self, question: Question, tokens: int, seconds: float) -> None:
        label = self._label(question)
        self.made.labels(label).inc(tokens)
        if tokens > 1:
            self.per_token.labels(label).observe(seconds / (tokens - 1))

    def _label(self, question: Question) -> str:
        """Name the prompt of a question, while there are few enough; "" where none is named."""
        if not self.per_prompt:
            return ""
        name = str(question.key[0]) if isinstance(question.key, tuple) else BASE
        if name not in self._named and len(self._named) >= self.per_prompt:
            return OTHER
        self._named.add(name)
        return name

    def register(self, engine: Engine, store: PromptStore) -> None:
        """Report the current state of these two, too."""
        self.registry.register(_State(engine, store))

    def text(self) -> bytes:
        """Write all metrics in Prometheus' format."""
        return generate_latest(self.registry)


class _Replicas(Collector):
    """The metrics of several servers, each sample with the label `replica`."""

    def __init__(self, replicas: Mapping[str, Iterable[Metric]]) -> None:
        self.replicas = replicas

    def collect(self) -> Iterable[Metric]:
        families: dict[str, Metric] = {}
        for replica, own in sorted(self.replicas.items()):
            for metric in own:
                family = families.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
                family.samples += [
                    sample._replace(labels={**sample.labels, "replica": replica}) for sample in metric.samples
                ]
        return families.values()


def write_replicas(replicas: Mapping[str, Iterable[Metric]]) -> bytes:
    """Write the metrics of several servers, by name, in Prometheus' format."""
    return generate_latest(_Replicas(replicas))


class _State(Collector):
    """What is read at the time of a request for metrics."""

    def __init__(self, engine: Engine, store: PromptStore) -> None:
        self.engine, self.store = engine, store

    def collect(self) -> Iterable[Metric]:
        engine, cache = self.engine, self.engine.cache
        yield GaugeMetricFamily("softprompt_queue_length", "Requests that wait.", engine.waiting)
        yield GaugeMetricFamily("softprompt_running", "Generations that run.", engine.running)
        yield GaugeMetricFamily("softprompt_prompts", "Prompts that are served.", len(self.store))
        yield GaugeMetricFamily("softprompt_prompt_cache_bytes", "Prompts' keys and values held.", cache.bytes)
        yield CounterMetricFamily("softprompt_prompt_cache_hits", "Prompts found computed.", cache.hits)
        yield CounterMetricFamily("softprompt_prompt_cache_misses", "Prompts computed.", cache.misses)


class Timing:
    """Middleware that gives requests an id, times them by the route that answers them, and logs them."""

    def __init__(self, app: ASGIApp, metrics: Metrics, log: AccessLog | None = None) -> None:
        self.app, self.metrics, self.log = app, metrics, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500
        own = request_id(scope)
        scope.setdefault("state", {})["request_id"] = own

        async def note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (HEADER.encode(), own.encode())]
            await send(message)

        try:
            await self.app(scope, receive, note_status)
        finally:
            route = getattr(scope.get("route"), "path", None) or _route_of(scope)
            method = scope["method"] if route != "other" else "other"  # a client may invent methods
            seconds = time.perf_counter() - began
            self.metrics.latency.labels(route, method).observe(seconds)
            self.metrics.requests.labels(route, method, str(status)).inc()
            if self.log is not None:
                self.log.write(scope, route, status, seconds)


def _route_of(scope: Scope) -> str:
    """Find the path of the route that would have answered a request that was refused before."""
    app = scope.get("app")
    for route in app.routes if app is not None else ():
        match, _ = route.matches(scope)
        if match is not Match.NONE and (path := getattr(route, "path", None)) and not isinstance(route, Mount):
            return str(path)
    return "other"
