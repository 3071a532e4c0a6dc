"""Does a server stay right and small at twice its capacity?

    python bench/soak_serving.py [--minutes 10] [--backbone flan-t5-small] [--output results/bench/soak.json]

Starts `softprompt serve` in a process of its own and asks it over HTTP. First every question is asked alone, one after
the other: its right answer. Then clients that wait for their answers measure the capacity, and then requests are sent
at twice that rate, whatever comes back, while four of the prompts are put, replaced and removed. Every answer must be
the one that the same question got alone (of a prompt that changes meanwhile: with a version that was served between
question and answer), every request answered once, and every refusal a 429 that says when to ask again; memory must
not grow. Meanwhile other clients misbehave, and the folder of prompts breaks and is mended (misbehave.py). Exits with 1
when something of it does not hold.
"""

import argparse
import asyncio
import json
import math
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import torch
from bench_serving import T5_SHAPE, texts
from misbehave import Misbehaving
from servers import name_of, write_prompts
from t5 import t5_folder

from softprompt.backbones import load_backbone
from softprompt.runs.run_folder import versions
from softprompt.runtime.files import write_json
from softprompt.tasks.registry import get_task

STEADY, CHANGING, TEXTS, TOKENS = 12, 4, 4, 8
KEY = "soak"
CLOSE = 1e-3  # of probabilities: batches sum in another order
WARM = 1 / 3  # of the time, before memory is watched: batches and the allocator reach their size
GROWTH = 0.05  # of memory, over the time that it is watched
Question = tuple[str, int, str]  # "completions" or "classify", which rows, which text


@dataclass
class Found:
    """What came of the requests."""

    answered: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    bad_refusals: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    ids: Counter[str] = field(default_factory=Counter)


class Served:
    """What prompts that change were, and when: (since a change was sent, until the next one was answered, rows)."""

    def __init__(self) -> None:
        self.history: dict[str, list[list[Any]]] = {f"changing{i}": [[0.0, math.inf, None]] for i in range(CHANGING)}
        self.changes: Counter[str] = Counter()

    def begin(self, name: str, rows: int | None) -> None:
        self.history[name].append([time.monotonic(), math.inf, rows])

    def done(self, name: str) -> None:
        self.history[name][-2][1] = time.monotonic()
        self.history[name] = self.history[name][-500:]

    def between(self, name: str, began: float, ended: float) -> set[int | None]:
        return {rows for since, stop_at_step, rows in self.history[name] if since <= ended and stop_at_step >= began}


class Soak:
    def __init__(self, client: httpx2.AsyncClient, asked: list[str], folder: Path) -> None:
        self.client, self.asked, self.folder = client, asked, folder
        self.alone: dict[Question, Any] = {}
        self.served, self.draw = Served(), random.Random(0)

    async def ask(self, kind: str, model: str, text: str) -> httpx2.Response:
        body = {"model": model, "input": text} if kind == "classify" else {
            "model": model, "prompt": text, "max_tokens": TOKENS}  # fmt: skip
        return await self.client.post(f"/v1/{kind}", json=body)

    async def all_alone(self) -> None:
        for kind in ("completions", "classify"):
            for i in range(STEADY):
                for text in self.asked:
                    answer = await self.ask(kind, name_of(i), text)
                    self.alone[kind, i, text] = _said(answer.raise_for_status().json())

    async def one(self, found: Found) -> None:
        """Ask a question drawn by chance, and see to it that the answer is right."""
        kind, text = self.draw.choice(["completions", "classify"]), self.draw.choice(self.asked)
        changing = self.draw.random() < 0.25
        rows = self.draw.randrange(CHANGING if changing else STEADY)
        model = f"changing{rows}" if changing else name_of(rows)
        began = time.monotonic()
        try:
            answer = await self.ask(kind, model, text)
        except httpx2.HTTPError as error:
            found.lost.append(f"{model}: {type(error).__name__} {error}")
            return
        ended = time.monotonic()
        could: set[int | None] = self.served.between(model, began, ended) if changing else {rows}
        self._check(
            found, answer, [self.alone.get((kind, one, text)) for one in could if one is not None], None in could
        )
        if answer.status_code == 200:
            found.latencies.append(ended - began)

    def _check(self, found: Found, answer: httpx2.Response, right: list[Any], may_be_gone: bool) -> None:
        found.answered[str(answer.status_code)] += 1
        if answer.status_code == 200:
            told = answer.json()
            if "id" in told:
                found.ids[told["id"]] += 1
            if not any(_same(_said(told), one) for one in right):
                found.wrong.append(f"{told} is none of {right}"[:1000])
        elif answer.status_code == 429:
            if not answer.headers.get("retry-after", "").isdigit():
                found.bad_refusals.append("429 without Retry-After")
        elif not (answer.status_code == 404 and may_be_gone):
            found.bad_refusals.append(f"{answer.status_code}: {answer.text}"[:300])

    async def capacity(self, seconds: float, clients: int) -> float:
        """Answers a second to clients that wait for each."""
        found, stop_at_step = Found(), time.monotonic() + seconds

        async def client() -> None:
            while time.monotonic() < stop_at_step:
                await self.one(found)

        began = time.monotonic()
        await asyncio.gather(*(client() for _ in range(clients)))
        return found.answered["200"] / (time.monotonic() - began)

    async def flood(self, rate: float, seconds: float) -> Found:
        """Requests at `rate` a second, at moments drawn by chance."""
        found, under_way = Found(), set()
        began = at = time.monotonic()
        while at < began + seconds:
            at += self.draw.expovariate(rate)
            await asyncio.sleep(max(at - time.monotonic(), 0))
            task = asyncio.ensure_future(self.one(found))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        await asyncio.gather(*under_way)
        return found

    async def change(self) -> None:
        """Put, replace and remove the prompts that change, until cancelled."""
        while True:
            for name in self.served.history:
                rows = None if self.draw.random() < 0.25 else self.draw.randrange(STEADY)
                before = self.served.history[name][-1][2]
                if rows is None and before is None:
                    continue
                self.served.begin(name, rows)
                await self._sent(name, rows)
                self.served.done(name)
                self.served.changes["removed" if rows is None else "put" if before is None else "replaced"] += 1
                await asyncio.sleep(0.2)

    async def _sent(self, name: str, rows: int | None) -> None:
        headers = {"Authorization": f"Bearer {KEY}"}
        while True:
            if rows is None:
                answer = await self.client.delete(f"/v1/prompts/{name}", headers=headers)
            else:
                run = self.folder / name_of(rows)
                files = {"card": (run / "prompt.json").read_bytes(),
                         "tensors": (run / "prompt.safetensors").read_bytes()}  # fmt: skip
                answer = await self.client.put(f"/v1/prompts/{name}", files=files, headers=headers)
            if answer.status_code != 429:
                answer.raise_for_status()
                return
            await asyncio.sleep(0.1)


def _said(told: dict[str, Any]) -> Any:
    """The text of a completion, or the probabilities of a classification."""
    if "choices" in told:
        (choice,) = told["choices"]
        return choice["text"]
    (one,) = told["data"]
    return one["probabilities"]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, str) or isinstance(other, str):
        return bool(one == other)
    return one.keys() == other.keys() and all(abs(one[name] - other[name]) < CLOSE for name in one)


@contextmanager
def server(backbone: str, folder: Path, log: Path, more: list[str]) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """`softprompt serve` at a free port: its address and process. It is told to end, and must."""
    command = [sys.executable, "-m", "softprompt.cli", "serve", "--backbone", backbone, "--prompts", str(folder)]
    with log.open("wb") as file:
        process = subprocess.Popen([*command, "--port", "0", "--admin-key", KEY, *more], stderr=file)
    try:
        yield _address(process, log), process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    while process.poll() is None:
        if found := re.search(r"at (http://[\d.:]+)", log.read_text()):
            return found[1]
        time.sleep(0.05)
    raise SystemExit(f"softprompt serve ended:\n{log.read_text()}")


def resident(pid: int) -> float:
    """MiB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


async def watched(pid: int, seen: list[tuple[float, float]]) -> None:
    while True:
        seen.append((time.monotonic(), resident(pid)))
        await asyncio.sleep(1)


async def soak(address: str, pid: int, asked: list[str], folder: Path, minutes: float, clients: int) -> dict[str, Any]:
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=256)
    async with httpx2.AsyncClient(base_url=address, timeout=600, limits=limits) as client:
        one = Soak(client, asked, folder)
        await one.all_alone()
        print(f"{len(one.alone)} questions asked alone", file=sys.stderr, flush=True)
        capacity = await one.capacity(max(minutes * 6, 10), clients)
        print(f"capacity: {capacity:.1f} answers/s", file=sys.stderr, flush=True)
        seen: list[tuple[float, float]] = []
        bad = Misbehaving(address, folder, name_of(0))
        beside = [asyncio.ensure_future(work) for work in (one.change(), watched(pid, seen), bad.run())]
        found = await one.flood(2 * capacity, minutes * 60)
        for task in beside:
            changed = task.done() and task.exception()
            if changed:
                found.lost.append(f"what is done beside the clients: {type(changed).__name__} {changed}")
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task
    waited = sorted(found.latencies) or [math.nan]
    return {
        "capacity_per_second": round(capacity, 2),
        "sent_per_second": round(sum(found.answered.values()) / (minutes * 60), 2),
        "statuses": dict(found.answered),
        "p50_seconds": round(statistics.median(waited), 3),
        "p99_seconds": round(waited[int(len(waited) * 0.99)], 3),
        "changes": dict(one.served.changes),
        "misbehaved": dict(sorted(bad.statuses.items())),
        "wrong": found.wrong + bad.wrong,
        "lost": found.lost,
        "duplicated": [name for name, times in found.ids.items() if times > 1],
        "bad_refusals": found.bad_refusals,
        "memory": _memory(seen),
    }


def _memory(seen: list[tuple[float, float]]) -> dict[str, float]:
    """Resident MiB when it is first watched and at the end, and the line through all between."""
    kept = seen[int(len(seen) * WARM) :]
    minutes, sizes = np.array([at for at, _ in kept]) / 60, np.array([size for _, size in kept])
    slope = float(np.polyfit(minutes - minutes[0], sizes, 1)[0]) if len(kept) > 2 else 0.0
    grown = slope * float(minutes[-1] - minutes[0])
    return {
        "first_mib": round(float(sizes[0])), "last_mib": round(float(sizes[-1])),
        "largest_mib": round(float(sizes.max())),
        "slope_mib_a_minute": round(slope, 2), "growth": round(grown / float(sizes[0]), 4),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10, help="at twice the capacity")
    parser.add_argument("--backbone", default=T5_SHAPE, help=f"a backbone, or {T5_SHAPE}: of that shape")
    parser.add_argument("--clients", type=int, default=32, help="that measure the capacity")
    parser.add_argument("--queue", type=int, default=64, help="of the server")
    parser.add_argument("--output", type=Path, help="write the JSON here, too")
    given = parser.parse_args()
    name = t5_folder() if given.backbone == T5_SHAPE else given.backbone
    frozen = load_backbone(name)
    asked, choices = texts(frozen, TEXTS), get_task("support").choices
    with tempfile.TemporaryDirectory() as scratch:
        folder, log = Path(scratch) / "prompts", Path(scratch) / "log"
        write_prompts(folder, frozen, STEADY, 20, choices)
        del frozen
        with server(name, folder, log, ["--queue", str(given.queue), "--read-timeout", "3", "--dtype", "float32"]) as (
            address,
            process,
        ):
            found = asyncio.run(soak(address, process.pid, asked, folder, given.minutes, given.clients))
        told = [line for line in log.read_text().splitlines() if line][2:]  # the first: what it serves, and where
    failures = [what for what in ("wrong", "lost", "duplicated", "bad_refusals") if found[what]]
    failures += ["memory"] if found["memory"]["growth"] > GROWTH else []
    failures += ["exit"] if process.returncode else []
    failures += ["no refusal"] if "429" not in found["statuses"] else []
    result = {
        "backbone": Path(given.backbone).name, "minutes": given.minutes, "queue": given.queue,
        "threads": torch.get_num_threads(), **found, "exit_code": process.returncode, "log": told[-20:],
        "failures": failures, "versions": versions(),
    }  # fmt: skip
    print(json.dumps(result, indent=2))
    if given.output:
        write_json(given.output, result)
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
