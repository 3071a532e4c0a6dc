"""Clients and folders as a server must bear them: slow bodies, disconnects, huge requests, prompts past all measure.

Each of these goes on until it is cancelled, from another address than the clients whose answers are checked, and notes
what came of it. What must never come is an error of the server (a status of 500 or more, but 503 with a reason), or no
end.
"""

import asyncio
import json
import random
import shutil
import string
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import torch
from safetensors.torch import load_file

from softprompt.runtime.files import write_json, write_tensors

ELSEWHERE = "127.0.0.2"
PATIENCE = 120.0
"""Seconds within which any request must be answered."""


class Misbehaving:
    """What is sent, and what came of it.

    Args:
        address: The server's.
        folder: Its folder of prompts.
        model: A prompt in it.
    """

    def __init__(self, address: str, folder: Path, model: str) -> None:
        self.address, self.folder, self.model = address, folder, model
        self.statuses: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.draw = random.Random(1)

    async def run(self) -> None:
        """Do all of it at once, until cancelled."""
        self.add_overgrown()
        transport = httpx2.AsyncHTTPTransport(local_address=ELSEWHERE)
        async with httpx2.AsyncClient(base_url=self.address, timeout=PATIENCE, transport=transport) as client:
            await asyncio.gather(
                *(self._send_slowly() for _ in range(40)), self._leave_early(client), self._ask_too_much(client),
                self._ask_the_overgrown(client), self._break_the_folder(),
            )  # fmt: skip

    def add_overgrown(self) -> None:
        """Add a prompt whose rows are finite, and too large to compute with."""
        target = self.folder / "overgrown"
        shutil.copytree(self.folder / self.model, target)
        card = json.loads((target / "prompt.json").read_text())
        write_json(target / "prompt.json", card | {"name": "overgrown"})
        rows = load_file(target / "prompt.safetensors")["prompt"]
        signs = torch.tensor([1.0, -1.0]).repeat(rows.shape[1] // 2)
        write_tensors(target / "prompt.safetensors", {"prompt": torch.full_like(rows, 3e38) * signs}, {"format": "pt"})

    async def _send_slowly(self) -> None:
        host, port = self.address.removeprefix("http://").split(":")
        head = b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        head += b"Content-Length: 900\r\n"
        while True:
            reader, writer = await asyncio.open_connection(host, int(port), local_addr=(ELSEWHERE, 0))
            writer.write(self.draw.choice([b"PO", head, head + b"\r\n{", head + b'\r\n{"model": "']))
            with suppress(ConnectionError):
                answer = await asyncio.wait_for(reader.read(), PATIENCE)
                self._note("slow", answer.split(b" ")[1].decode() if answer else "closed")
            writer.close()

    async def _leave_early(self, client: httpx2.AsyncClient) -> None:
        while True:
            body = {"model": self.model, "prompt": "the parcel", "max_tokens": 200, "stream": True}
            async with client.stream("POST", "/v1/completions", json=body) as stream:
                self._note("left", str(stream.status_code))
                with suppress(StopAsyncIteration):
                    await anext(stream.aiter_lines())
            with suppress(httpx2.ReadTimeout):
                await client.post("/v1/classify", json={"model": self.model, "input": ["late"] * 60}, timeout=0.05)
            await asyncio.sleep(0.2)

    async def _ask_too_much(self, client: httpx2.AsyncClient) -> None:
        def noise(length: int) -> str:
            return "".join(self.draw.choices(string.ascii_letters + string.digits + " @#%&", k=length))

        while True:
            many = [noise(400) for _ in range(self.draw.choice([2, 12, 256]))]
            await self._post(client, "huge", "classify", input="hi", choices=many)
            await self._post(client, "huge", "completions", prompt=noise(self.draw.choice([5_000, 60_000, 900_000])))
            stops = [noise(200) for _ in range(self.draw.choice([8, 400]))]
            await self._post(client, "huge", "completions", prompt=["a"] * 8, max_tokens=40, stop=stops)
            await asyncio.sleep(0.5)

    async def _ask_the_overgrown(self, client: httpx2.AsyncClient) -> None:
        while True:
            await self._post(client, "overgrown", "classify", model="overgrown", input="the parcel is late")
            await self._post(client, "overgrown", "completions", model="overgrown", prompt="the parcel is late")
            await asyncio.sleep(0.3)

    async def _break_the_folder(self) -> None:
        """Add and remove links that lead nowhere, files, and runs that are not finished."""
        for i in range(1_000_000):
            path = self.folder / f"broken{i % 5}"
            path.symlink_to(self.folder / "nowhere")
            half = self.folder / f"half{i % 5}"
            half.mkdir()
            await asyncio.sleep(0.3)
            path.unlink()
            shutil.rmtree(half)
            self._note("folder", "broken and mended")

    async def _post(self, client: httpx2.AsyncClient, kind: str, route: str, **body: Any) -> None:
        try:
            answer = await client.post(f"/v1/{route}", json={"model": self.model, **body})
        except httpx2.ReadTimeout:
            self.wrong.append(f"{kind}: no answer within {PATIENCE:g} s")
            return
        self._note(kind, str(answer.status_code))
        json.loads(answer.text, parse_constant=lambda word: self.wrong.append(f"{kind}: the body holds {word}"))

    def _note(self, kind: str, status: str) -> None:
        self.statuses[f"{kind} {status}"] += 1
        if status.startswith("5") and status != "503":
            self.wrong.append(f"{kind}: {status}")
