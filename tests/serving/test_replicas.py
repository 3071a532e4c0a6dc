"""`softprompt serve --ray`: two replicas answer as one server does, also when one of them dies."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import httpx2
import openai
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from softprompt.cli import app
from softprompt.errors import BadInput, MissingPackage, RunFailed
from softprompt.runtime.ray_cluster import _default_address
from tests import tiny
from tests.served import TEAMS, predicting, write_prompt

pytestmark = pytest.mark.processes
TEXT = "the parcel is late"
ADMIN = {"Authorization": "Bearer admin"}
CHILDREN = "ray::ServeReplica:softprompt"
# The command, but that Ray looks after each replica every second: every ten, and a test waits for ten.
SERVER = """
from functools import partial
from ray import serve
from softprompt.cli import main
serve.deployment = partial(serve.deployment, health_check_period_s=1)
main()
"""


class Running:
    """The command, as a user starts it, and where it serves."""

    def __init__(self, folder: Path) -> None:
        self.prompts = folder / "prompts"
        write_prompt(self.prompts / "teams", tiny.backbone("t5"), template="message : {text} team :", choices=TEAMS)
        write_prompt(self.prompts / "free", tiny.backbone("t5"), length=9, seed=1)
        words = [
            "serve", "--backbone", tiny.save_tiny("t5", folder / "t5"), "--prompts", str(self.prompts), "--port", "0",
            "--ray", "local", "--replicas", "2", "--admin-key", "admin",
        ]  # fmt: skip
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline()
        if " by 2 replicas (docs at " not in self.line:
            self.process.kill()  # else reading the rest waits for ever
            raise AssertionError(self.line + self.process.stdout.read())
        self.address = self.line.partition(" at ")[2].split()[0]

    def replicas(self) -> set[int]:
        """Ids of the replicas' processes."""
        found = set()
        for child in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if child.cmdline()[:1] and child.cmdline()[0].startswith(CHILDREN):
                    found.add(child.pid)
            except psutil.NoSuchProcess:
                pass
        return found


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    pytest.importorskip("ray")
    made = Running(tmp_path_factory.mktemp("ray"))
    yield made
    with made.process as process:
        process.kill()


@pytest.fixture
def client(running: Running, _no_network: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx2.Client]:
    monkeypatch.undo()
    connect = socket.socket.connect

    def local(self: socket.socket, address: Any) -> None:
        assert address[0] == "127.0.0.1"
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local)
    with httpx2.Client(base_url=running.address, timeout=60) as made:
        yield made


def counted(client: httpx2.Client, name: str) -> dict[str, float]:
    """A counter of each replica."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    sums: dict[str, float] = {}
    for sample in (sample for family in families for sample in family.samples if sample.name == name):
        sums[sample.labels["replica"]] = sums.get(sample.labels["replica"], 0) + sample.value
    return sums


def test_the_openai_client_completes_and_streams(running: Running, client: httpx2.Client) -> None:
    ai = openai.OpenAI(api_key="any", base_url=f"{running.address}/v1", http_client=client, max_retries=0)
    assert [model.id for model in ai.models.list()] == ["base", "free", "teams"]
    whole = {ai.completions.create(model="free", prompt=TEXT, max_tokens=9).choices[0].text for _ in range(8)}
    assert len(whole) == 1
    pieces = ai.completions.create(model="free", prompt=TEXT, max_tokens=9, stream=True)
    assert "".join(piece.choices[0].text for piece in pieces) == whole.pop()
    drawn = {ai.completions.create(model="free", prompt=TEXT, temperature=2, seed=3).choices[0].text for _ in range(8)}
    assert len(drawn) == 1
    with pytest.raises(openai.NotFoundError, match="There is no prompt 'nobody' here"):
        ai.completions.create(model="nobody", prompt=TEXT)
    assert client.get("/readyz").json() == {"status": "ready"}
    assert "text/html" in client.get("/").headers["content-type"]
    assert set(counted(client, "softprompt_requests_total")) == {"0", "1"}


def test_a_prompt_answers_as_it_was_put_last_on_any_replica(
    running: Running, client: httpx2.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def asked(times: int) -> list[httpx2.Response]:
        async with httpx2.AsyncClient(base_url=running.address, timeout=60) as several:
            body = {"model": "teams", "input": TEXT}
            return await asyncio.gather(*(several.post("/v1/classify", json=body) for _ in range(times)))

    before = counted(client, "softprompt_batch_rows_count")
    for seed in (0, 4, 5, 6):
        alone = running.prompts / "teams"
        if seed:
            alone = write_prompt(
                tmp_path / str(seed), tiny.backbone("t5"), seed=seed, template="{text} team", choices=TEAMS
            )
            parts = {
                "card": (alone / "prompt.json").read_bytes(),
                "tensors": (alone / "prompt.safetensors").read_bytes(),
            }
            assert client.put("/v1/prompts/teams", files=parts, headers=ADMIN).status_code == 200
        with predicting(cache(lambda **given: tiny.backbone("t5", **given)), monkeypatch) as predict:
            wanted = predict(alone if seed else running.prompts / "teams", TEXT)["probabilities"]
        for answer in asyncio.run(asked(8)):
            assert answer.json()["data"][0]["probabilities"] == pytest.approx(wanted, abs=1e-5)
    after = counted(client, "softprompt_batch_rows_count")
    assert all(after[replica] > before[replica] for replica in ("0", "1"))
    assert client.delete("/v1/prompts/teams", headers=ADMIN).status_code == 200
    assert {answer.status_code for answer in asyncio.run(asked(8))} == {404}


def test_a_replica_that_is_killed_is_replaced_while_the_other_answers(running: Running, client: httpx2.Client) -> None:
    before = running.replicas()
    assert len(before) == 2
    os.kill(min(before), signal.SIGKILL)
    body = {"model": "free", "prompt": TEXT, "max_tokens": 3}
    answers = [client.post("/v1/completions", json=body) for _ in range(10)]
    assert [answer.status_code for answer in answers].count(200) >= 9  # at most the one that was on its way there
    while len(running.replicas() - before) < 1 or len(counted(client, "softprompt_running")) < 2:
        assert client.post("/v1/completions", json=body).status_code == 200
        time.sleep(0.2)


def test_what_runs_is_finished_at_ctrl_c(running: Running, client: httpx2.Client) -> None:
    body = {"model": "free", "prompt": [TEXT] * 60, "max_tokens": 200, "temperature": 2, "stream": True}
    ended = set()
    with client.stream("POST", "/v1/completions", json=body) as stream:
        lines = (line.removeprefix("data: ") for line in stream.iter_lines() if line)
        next(lines)
        running.process.send_signal(signal.SIGINT)
        for line in lines:
            if line != "[DONE]":
                choice = json.loads(line)["choices"][0]
                ended |= {choice["index"]} if choice["finish_reason"] else set()
    assert line == "[DONE]"
    assert ended == set(range(60))
    assert running.process.wait() == 0
    assert running.process.stdout is not None
    assert running.process.stdout.read() == ""


def test_what_cannot_be_started_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def error(*words: str) -> Any:
        arguments = ["serve", "--backbone", "smollm2-135m", "--prompts", str(tmp_path), *words]
        return CliRunner().invoke(app, arguments).exception

    assert isinstance(found := error("--replicas", "2"), BadInput)
    assert "expected --ray beside it" in str(found)
    assert "started on a machine of the cluster" in str(error("--ray", "ray://head:10001"))
    assert "is not a folder" in str(error("--ray", "local", "--prompts", str(tmp_path / "none")))
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "softprompt.serving.replicas", raising=False)
    assert isinstance(found := error("--ray"), MissingPackage)
    assert "pip install 'softprompt[serve,ray]'" in str(found)


def test_a_replicas_own_error_is_found_in_what_ray_says_of_it() -> None:
    from softprompt.serving.replicas import _parse_error

    ray = "Deploying application softprompt failed: ...\n  File x\nsoftprompt.errors.UnknownName: Unknown backbone 'x'."
    assert isinstance(found := _parse_error(ray), BadInput)
    assert str(found) == "Unknown backbone 'x'."
    assert isinstance(found := _parse_error("no room"), RunFailed)
    assert "no room" in str(found)


def test_a_second_signal_leaves_no_time_to_finish() -> None:
    from softprompt.serving.replicas import _drain

    ending, calls = threading.Event(), []

    class Everyone:
        def broadcast(self, verb: str, grace: float) -> "Everyone":
            calls.append((verb, grace))
            return self

        def results(self, **_: Any) -> list[Any]:
            if len(calls) == 1:
                ending.set()
            return [None, TimeoutError()] if len(calls) == 1 else [None, None]

    _drain(Everyone(), 30.0, ending)
    assert calls == [("drain", 30.0), ("drain", 0.0)]


def test_the_address_that_a_killed_cluster_left_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert [_default_address(noted) for noted in (None, "127.0.0.1:6379")] == [
        "local",
        "local",
    ]  # no test reaches an address
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert _default_address("127.0.0.1:6379") == "10.0.0.1:6379"
