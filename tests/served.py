"""Write prompts of every kind, and run a server inside a test."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import torch
from fastapi import FastAPI

import softprompt.runs.predict
from softprompt.backbones import Backbone
from softprompt.methods.folded import Folded, TokenOffset
from softprompt.runs.external import make_prompt
from softprompt.runs.fingerprint import fingerprint
from softprompt.runs.prompt import Prompt, PromptCard
from softprompt.runs.run_folder import versions
from softprompt.serving.engine.batching import Batching
from softprompt.serving.engine.engine import Engine
from softprompt.serving.http.app import make_app
from softprompt.serving.http.auth import Keys
from softprompt.serving.limits import Limits
from softprompt.serving.prompt_store import PromptStore
from softprompt.tasks.chat import Chat
from tests import tiny

TEAMS = ["red", "blue", "good"]
SMALL = Batching(rows=3, tokens=300, pass_tokens=64, wait=0.002, queue=200, cache=20_000)
"""So little of everything that requests must wait, join, leave and be forgotten."""


def write_prompt(
    folder: Path, backbone: Backbone, *, kind: str = "prompt", length: int = 4, seed: int = 0, template: str = "{text}",
    choices: list[str] | None = None, max_source: int = 256, placement: str = "front",
    chat: Chat | None = None,
) -> Path:  # fmt: skip
    """A finished run of random values in `folder`."""
    d, draw = backbone.d, torch.Generator().manual_seed(seed)

    def some(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw)

    method, options, positions, form = "prompt_tuning", {"length": length}, None, Folded("prompt", some(length, d))
    if kind == "prompt+position":
        positions, form = 6, Folded("prompt+position", some(length, d), some(6, d))
    elif kind == "prompt+token":
        network = TokenOffset(some(d, 2), some(2), some(2, d), some(d))
        form = Folded("prompt+token", some(length, d), network=network)
    elif kind == "input":
        method, options = "smop", {"length": length, "prompts": 2}
        form = make_prompt("smop", backbone, seed=seed, **options).deployable()
    stored = {"method": method, "options": options, "trainable": 1, "stored": 1}
    card = PromptCard(
        name=folder.name, kind=kind, backbone=backbone.name, fingerprint=fingerprint(backbone), length=length,
        positions=positions, zeroed=0, max_source=max_source, placement=placement, task="tiny", template=template,
        chat=chat, choices=choices or [], label=None, words=None, metrics=["accuracy"], seed=seed, scores={}, best=None,
        stopped=None, versions=versions(), **stored,
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    Prompt(card, form).save(folder)
    return folder


def write_all_kinds(folder: Path, backbone: Backbone) -> list[str]:
    """Prompts of every kind, length and form of question; returns their names."""
    write_prompt(folder / "teams", backbone, length=5, template="message : {text} team :", choices=TEAMS)
    write_prompt(folder / "free", backbone, length=9, seed=1, max_source=8)
    write_prompt(
        folder / "placed", backbone, kind="prompt+position", length=2, seed=2, choices=["yes", "yes sir", "a b"]
    )
    write_prompt(folder / "bare", backbone, kind="prompt+position", length=0, seed=3, template="{text} team")
    write_prompt(folder / "shifted", backbone, kind="prompt+token", length=3, seed=4, choices=TEAMS[:2])
    write_prompt(folder / "looking", backbone, kind="input", length=4, seed=5)
    opened = {"kind": "prompt+position", "placement": "after_bos"}
    write_prompt(folder / "opened", backbone, length=4, seed=6, choices=TEAMS, **opened)
    write_prompt(folder / "behind", backbone, length=3, seed=7, placement="after_source")
    chat = Chat(opening="message : ", reply=" yes ", user=" no ", answer=" team :", system=None)
    write_prompt(folder / "chatting", backbone, seed=8, template="{conversation} team :", chat=chat, choices=TEAMS)
    return ["teams", "free", "placed", "bare", "shifted", "looking", "opened", "behind", "chatting"]


@contextmanager
def predicting(backbone: Callable[..., Backbone], patch: Any) -> Iterator[Callable[[Path, str], dict[str, Any]]]:
    """`softprompt predict` on a tiny backbone, one text at a time."""
    patch.setattr(
        softprompt.runs.predict,
        "load_backbone",
        lambda name, **given: backbone(max_source=given["max_source"], placement=given["placement"]),
    )
    yield lambda folder, text: softprompt.runs.predict.predict(folder, [text])[0].as_json()


@asynccontextmanager
async def running(engine: Engine) -> AsyncIterator[Engine]:
    engine.start()
    try:
        yield engine
    finally:
        await asyncio.get_running_loop().run_in_executor(None, engine.close, 20.0)
        assert not engine._thread.is_alive()


def tiny_app(folder: Path, name: str = "llama", batching: Batching = SMALL, **settings: Any) -> FastAPI:
    """A server of a tiny backbone with the prompts of `folder`; those of a test that writes none are all kinds."""
    backbone = tiny.backbone(name)
    if not any(folder.iterdir()):
        write_all_kinds(folder, backbone)
    settings = {"keys": Keys(), "limits": Limits()} | settings
    return make_app(Engine(backbone, batching), PromptStore(folder, backbone), **settings)


@asynccontextmanager
async def client_of(app: FastAPI, key: str | None = None) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of a server in this process, no socket between them."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app, raise_app_exceptions=False), base_url="http://server", headers=headers
        ) as client,
    ):
        yield client
