"""The servers that bench_serving.py compares, each in a process of its own, and the prompts that they all answer with.

Every server is asked by a number of clients that each have one request under way (a closed loop): ours by coroutines
beside the engine's thread, PEFT's by a queue, as its model answers one call at a time.
"""

import asyncio
import gc
import multiprocessing
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch
from routes import _as_it_was, _forget_peak, _status
from torch import Tensor

from softprompt.backbones import Backbone, Seq2Seq, load_backbone
from softprompt.runs.external import make_prompt, unscored_card
from softprompt.runs.prompt import PromptCard, load_prompt
from softprompt.runtime.files import write_json, write_tensors
from softprompt.serving.engine.batching import Batching
from softprompt.serving.engine.engine import Engine
from softprompt.serving.engine.requests import Generate, Rank
from softprompt.serving.limits import Limits
from softprompt.serving.preprocess import Preprocessor
from softprompt.serving.prompt_store import PromptStore
from softprompt.serving.store_folder import BASE
from softprompt.tasks import Example

TOKENS = 16  # of every generated answer: none ends earlier
MOST = 256  # source tokens that are read


class Asked(NamedTuple):
    """One request: the prompt it names (-1: none), and its text."""

    prompt: int
    text: str


@dataclass
class Answered:
    """What a run of requests took."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    answers: list[Any] = field(default_factory=list)
    """Of each request, in order: a text, or the log-probabilities of its choices."""
    spent: dict[str, float] = field(default_factory=dict)
    """Ours only: seconds in each part of the engine, and counts."""


def name_of(prompt: int) -> str:
    return BASE if prompt < 0 else f"p{prompt:05d}"


def write_prompts(folder: Path, backbone: Backbone, count: int, length: int, choices: Sequence[str]) -> None:
    """Write `count` run folders: each its own rows, sampled from the vocabulary as prompt tuning starts."""
    first = make_prompt("prompt_tuning", backbone, length=length)
    card = unscored_card(
        "p", first, backbone, template="{text}", choices=choices, method="prompt_tuning", options={"length": length}
    )
    ids, draw = torch.tensor(backbone.ordinary_ids()), torch.Generator().manual_seed(0)
    for i in range(count):
        rows = backbone.embed(ids[torch.randint(len(ids), (length,), generator=draw)].tolist())
        write_prompt(folder / name_of(i), card, rows)


def write_prompt(folder: Path, card: PromptCard, rows: Tensor) -> None:
    folder.mkdir(parents=True)
    write_tensors(folder / "prompt.safetensors", {"prompt": rows.float()}, {"format": "pt"})
    write_json(folder / "prompt.json", card.model_copy(update={"name": folder.name}).model_dump())


class Ours:
    """The engine of `softprompt serve`, asked as its routes ask it: everything but HTTP and JSON."""

    def __init__(self, name: str, folder: Path, batching: dict[str, Any]) -> None:
        backbone = load_backbone(name)
        self.engine = Engine(backbone, Batching.on(backbone.device, **batching))
        self.engine.ends = frozenset()  # so that every answer has the same number of tokens
        self.preprocessor = Preprocessor(self.engine, PromptStore(folder, backbone), Limits())
        self.spent: dict[str, float] = {}
        self._measured()
        self.engine.start()

    def have(self, prompts: int) -> None:
        """Ask every prompt once: it is loaded, and its keys and values are computed."""
        self.run("ours", "generate", [Asked(i, "a") for i in range(prompts)], 64, tokens=1)

    def run(self, route: str, kind: str, requests: Sequence[Asked], clients: int, tokens: int = TOKENS) -> Answered:
        self.spent = dict.fromkeys(self.spent, 0.0)
        cache = self.engine.cache
        hits, misses = cache.hits, cache.misses
        found = asyncio.run(self._asked(kind, requests, clients, tokens))
        found.spent = self.spent | {"hits": cache.hits - hits, "misses": cache.misses - misses}
        return found

    async def _asked(self, kind: str, requests: Sequence[Asked], clients: int, tokens: int) -> Answered:
        left, found = iter(enumerate(requests)), Answered(answers=[None] * len(requests))

        async def client() -> None:
            for i, asked in left:
                began = time.perf_counter()
                found.answers[i] = await self._one(kind, asked, tokens)
                found.latencies.append(time.perf_counter() - began)

        began = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(clients)))
        found.seconds = time.perf_counter() - began
        return found

    async def _one(self, kind: str, asked: Asked, tokens: int) -> Any:
        prompt, texts = self.preprocessor.load(name_of(asked.prompt)), [asked.text]
        if kind == "classify":
            choices = None if asked.prompt >= 0 else self.choices
            read = next(self.preprocessor.prepare_ranking(prompt, texts, raw=False, choices=choices))
            request = Rank(read.question, read.ranking)
            self.engine.submit(request)
            return await self.engine.rank(request)
        read = next(self.preprocessor.prepare_generation(prompt, texts, raw=False, max_tokens=tokens, default=tokens))
        made = Generate(read.question, tokens, strip=True)
        self.engine.submit(made)
        return "".join([piece.text async for piece in self.engine.generate(made)])

    @property
    def choices(self) -> list[str]:
        return self.preprocessor.store.get(name_of(0)).card.choices

    def _measured(self) -> None:
        """Note how long each part of the engine's work takes, and how many rows it does it for."""
        batch: Any = self.engine.batch

        def timed(work: Callable[..., Any], part: str) -> Callable[..., Any]:
            self.spent |= {part: 0.0, f"{part}_calls": 0.0, f"{part}_rows": 0.0}

            def done(first: Sequence[Any], *more: Any) -> Any:
                began = time.perf_counter()
                made = work(first, *more)
                self.spent[part] += time.perf_counter() - began
                self.spent[f"{part}_calls"] += 1
                self.spent[f"{part}_rows"] += len(first)
                return made

            return done

        for part in ("join", "step", "score", "_fronts"):  # _fronts: a part of join and score
            if hasattr(batch, part):
                setattr(batch, part, timed(getattr(batch, part), part.strip("_")))


class Peft:
    """HF PEFT: an adapter PROMPT_TUNING for each prompt, `set_adapter` before each call of the model.

    peft_switching: requests in the order they come, one a call. peft_grouped: the oldest that waits, and with it all
    that wait for the same adapter.
    """

    def __init__(self, name: str, folder: Path, batching: dict[str, Any]) -> None:
        self.backbone, self.folder = load_backbone(name, max_source=MOST), folder  # for its tokenizer, and the same ids
        table, self.model = self.backbone.embedding.table, self.backbone.model
        self.seq2seq = isinstance(self.backbone, Seq2Seq)
        _as_it_was(self.model)
        owner: Any = self.model.get_encoder() if self.seq2seq else self.model  # type: ignore[operator]
        owner.set_input_embeddings(table)
        self.model.generation_config.eos_token_id = None  # type: ignore[union-attr]  # as ours: no answer ends earlier
        words = load_prompt(folder / name_of(0)).card.choices
        self.choices = [token for (token,) in self.backbone.tokens.choice_ids(words)]  # of one token each
        self.made: Any = None
        self.adapters = 0

    def have(self, prompts: int) -> None:
        from peft import PromptTuningConfig, TaskType, get_peft_model

        task = TaskType.SEQ_2_SEQ_LM if self.seq2seq else TaskType.CAUSAL_LM
        for i in range(self.adapters, prompts):
            rows, name = load_prompt(self.folder / name_of(i)).folded.prompt, name_of(i)
            config = PromptTuningConfig(
                task_type=task, num_virtual_tokens=len(rows), num_transformer_submodules=1, inference_mode=True
            )
            if self.made is None:
                self.made = get_peft_model(self.model, config, adapter_name=name)  # type: ignore[arg-type]
            else:
                self.made.add_adapter(name, config)
            with torch.no_grad():
                self.made.prompt_encoder[name].embedding.weight.copy_(rows)
        self.adapters = max(self.adapters, prompts)
        self.made.eval()

    def run(self, route: str, kind: str, requests: Sequence[Asked], clients: int) -> Answered:
        found = Answered(answers=[None] * len(requests))
        began = time.perf_counter()
        left = deque(enumerate(requests))
        waiting = [(*left.popleft(), began) for _ in range(min(clients, len(left)))]
        while waiting:
            taken = waiting[:1]
            if route == "peft_grouped":
                taken = [one for one in waiting if one[1].prompt == waiting[0][1].prompt]
            waiting = [one for one in waiting if one not in taken]
            answers = self._answer(kind, taken[0][1].prompt, [asked.text for _, asked, _ in taken])
            now = time.perf_counter()
            for (i, _, born), answer in zip(taken, answers, strict=True):
                found.answers[i] = answer
                found.latencies.append(now - born)
                if left:  # its client asks again
                    waiting.append((*left.popleft(), now))
        found.seconds = time.perf_counter() - began
        return found

    @torch.inference_mode()
    def _answer(self, kind: str, prompt: int, texts: Sequence[str]) -> list[Any]:
        self.made.set_adapter(name_of(prompt), inference_mode=True)
        ids, mask = self._padded([self.backbone.tokens.source_ids(Example(text), MOST)[0] for text in texts])
        if kind == "classify":
            start = self.model.config.decoder_start_token_id if self.seq2seq else None
            more = {"decoder_input_ids": torch.full((len(ids), 1), start)} if self.seq2seq else {"logits_to_keep": 1}
            last = self.made(input_ids=ids, attention_mask=mask, **more).logits[:, -1]
            scores: list[Any] = torch.log_softmax(last.float(), -1)[:, self.choices].tolist()
            return scores
        made = self.made.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=TOKENS, do_sample=False, pad_token_id=self.backbone.pad
        )
        texts = self.backbone.tokenizer.batch_decode(made[:, -TOKENS:], skip_special_tokens=True)
        return [text.strip() for text in texts]

    def _padded(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """On the left for a decoder that continues them, on the right for an encoder."""
        left = not self.seq2seq
        mask = self.backbone.pad_rows([[1] * len(row) for row in rows], 0, left=left)
        return self.backbone.pad_rows(rows, self.backbone.pad, left=left), mask


SERVERS: dict[str, Callable[[str, Path, dict[str, Any]], Ours | Peft]] = {"ours": Ours, "peft": Peft}


def _work(
    connection: Connection, kind: str, backbone: str, folder: Path, batching: dict[str, Any], threads: int
) -> None:
    torch.set_num_threads(threads)
    server = SERVERS[kind](backbone, folder, batching)
    gc.collect()
    _forget_peak()
    connection.send(_status("VmRSS"))
    while (asked := connection.recv()) is not None:
        verb, *given = asked
        if verb == "peak":
            connection.send(_status("VmHWM"))
            _forget_peak()
        else:
            connection.send(getattr(server, verb)(*given))


class Process:
    """A server in a process of its own."""

    def __init__(self, connection: Connection, loaded: float) -> None:
        self._connection, self.loaded = connection, loaded
        """MiB of the process with its model, before the first request."""

    def _do(self, *asked: Any) -> Any:
        self._connection.send(asked)
        return self._connection.recv()

    def have(self, prompts: int) -> None:
        """Make it ready to answer with so many prompts."""
        self._do("have", prompts)

    def run(self, route: str, kind: str, requests: Sequence[Asked], clients: int) -> Answered:
        found: Answered = self._do("run", route, kind, list(requests), clients)
        return found

    def peak(self) -> float:
        """Most MiB that were resident since this was last asked."""
        return float(self._do("peak"))


@contextmanager
def process(kind: str, backbone: str, folder: Path, batching: dict[str, Any]) -> Iterator[Process]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    given = (there, kind, backbone, folder, batching, torch.get_num_threads())
    child = context.Process(target=_work, args=given)
    child.start()
    there.close()
    try:
        yield Process(here, here.recv())
    finally:
        here.send(None)
        child.join()
