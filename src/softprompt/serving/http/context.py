"""What the routes share: the engine, the prompts, and the threads in which texts and files are read."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

from fastapi import FastAPI

from softprompt.serving.engine.engine import Engine
from softprompt.serving.engine.refusals import Closing
from softprompt.serving.limits import Limits
from softprompt.serving.preprocess import Preprocessor
from softprompt.serving.prompt_store import LoadedPrompt, PromptStore
from softprompt.serving.store_folder import BASE, FolderUnreadable

T = TypeVar("T")
READER_TURN = 0.005
"""Seconds after which the texts of another request are tokenized, before the rest of one."""
DISK_PATIENCE, READY_PATIENCE = 10.0, 2.0
"""Seconds that a request, and a question whether the server is ready, wait for the folder of prompts."""


class Server:
    """What the routes share."""

    def __init__(self, engine: Engine, store: PromptStore, limits: Limits, grace: float) -> None:
        self.engine, self.store, self.limits, self.grace = engine, store, limits, grace
        self.preprocessor = Preprocessor(engine, store, limits)
        self.began = int(time.time())
        self._reader = ThreadPoolExecutor(1, "softprompt-reader")  # one: tokenizers are not made for several
        self._finder = ThreadPoolExecutor(1, "softprompt-finder")  # waits for the disk, so that no tokenizing does
        self._keeper = ThreadPoolExecutor(1, "softprompt-keeper")  # stores prompts, so that no request waits for it

    async def preprocess(self, texts: Iterator[T]) -> list[T]:
        """Take what is made of texts in the one thread that tokenizes; requests take turns there."""
        found: list[T] = []
        while some := await _run_in(self._reader, lambda: _take(texts, READER_TURN)):
            found += some
        return found

    async def read(self, work: Callable[[], T]) -> T:
        """Run `work` in the one thread that tokenizes."""
        return await _run_in(self._reader, work)

    async def look_up(self, work: Callable[[], T], patience: float | None = None) -> T:
        """Run `work` in the thread that lists and loads prompts. Raises FolderUnreadable after `patience` seconds."""
        patience = DISK_PATIENCE if patience is None else patience
        try:
            return await asyncio.wait_for(_run_in(self._finder, work), patience)
        except TimeoutError:
            raise FolderUnreadable(
                f"The folder of prompts has not answered for {patience:g} s. Only {BASE!r} is served until it does."
            ) from None

    async def load(self, model: str) -> LoadedPrompt | None:
        """Load the prompt that `model` names; None for the backbone alone."""
        return None if model == BASE else await self.look_up(lambda: self.preprocessor.load(model))

    async def change_store(self, work: Callable[[], T]) -> T:
        """Run `work` in the thread that stores prompts."""
        return await _run_in(self._keeper, work)

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Start the engine and, at the end, let it finish what it has begun."""
        self.engine.start()
        try:
            yield
        finally:
            await asyncio.get_running_loop().run_in_executor(None, self.engine.close, self.grace)
            self._reader.shutdown(cancel_futures=True)
            self._finder.shutdown(wait=False, cancel_futures=True)  # a disk that does not answer keeps nobody here
            self._keeper.shutdown()


def _take(texts: Iterator[T], seconds: float) -> list[T]:
    """Take from `texts` for about so long, one at least; nothing at its end."""
    ends, found = time.monotonic() + seconds, []
    for text in texts:
        found.append(text)
        if time.monotonic() >= ends:
            break
    return found


async def _run_in(threads: ThreadPoolExecutor, work: Callable[[], T]) -> T:
    try:
        doing = asyncio.get_running_loop().run_in_executor(threads, work)
    except RuntimeError:  # the threads have ended
        raise Closing("The server has ended.") from None
    return await doing
