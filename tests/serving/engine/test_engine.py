"""The engine: any mix of requests answers as `softprompt predict` answers each alone."""

import asyncio
import random
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from softprompt.backbones import Backbone
from softprompt.errors import BadInput, NotFinite
from softprompt.methods.prompts.free import Free
from softprompt.methods.soft_prompt import SoftPrompt
from softprompt.serving.engine.batching import Batching
from softprompt.serving.engine.causal import CausalBatch
from softprompt.serving.engine.engine import Engine
from softprompt.serving.engine.prefix_cache import PromptCache
from softprompt.serving.engine.ranking import finish, plan_ranking
from softprompt.serving.engine.refusals import Closing, QueueFull
from softprompt.serving.engine.requests import Generate, Rank
from softprompt.serving.engine.running_batch import make_running_batch
from softprompt.serving.engine.sampler import Sampling
from softprompt.serving.engine.seq2seq import Seq2SeqBatch, Seq2SeqCohorts
from softprompt.serving.engine.sequence import Question
from softprompt.serving.engine.uncached import UncachedBatch
from softprompt.serving.http.requests import rank_requests
from softprompt.serving.limits import Limits
from softprompt.serving.preprocess import Preprocessor
from softprompt.serving.prompt_store import PromptStore
from softprompt.tasks import Example
from tests import tiny
from tests.compare import assert_close
from tests.served import SMALL, predicting, running, write_all_kinds

WORDS = [word for word in tiny.WORDS.split() if word.isalpha()]


def some_text(draw: random.Random) -> str:
    return " ".join(draw.choices(WORDS, k=draw.choice([1, 2, 3, 5, 8, 13, 21])))


async def generated(engine: Engine, request: Generate) -> tuple[str, str]:
    pieces = [piece async for piece in engine.generate(request)]
    assert [piece.finish for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    return "".join(piece.text for piece in pieces), str(pieces[-1].finish)


@pytest.mark.parametrize(
    ("name", "kind"), [("llama", CausalBatch), ("gpt2", CausalBatch), ("gemma3", CausalBatch), ("t5", Seq2SeqBatch)]
)
def test_any_mix_answers_as_predict_answers_each_alone(
    name: str, kind: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, draw = tiny.backbone(name, bos=True), random.Random(name)
    names = write_all_kinds(tmp_path, backbone)
    engine, store = Engine(backbone, SMALL), PromptStore(tmp_path, backbone)
    preprocessor = Preprocessor(engine, store, Limits())
    assert isinstance(engine.batch, kind)
    cases = [(draw.choice(names), some_text(draw)) for _ in range(16)]
    noise = [some_text(draw) for _ in range(5)]

    async def one(prompt: str, text: str) -> Any:
        await asyncio.sleep(draw.random() / 20)
        if store.card(prompt)[1].choices:
            loaded = preprocessor.load(prompt)
            requests = rank_requests([*preprocessor.prepare_ranking(loaded, [text], raw=False, choices=None)])
            engine.submit(*requests)
            return await engine.rank(requests[0])
        loaded = preprocessor.load(prompt)
        question = next(
            preprocessor.prepare_generation(loaded, [text], raw=False, max_tokens=None, default=20)
        ).question
        request = Generate(question, max_tokens=20)
        engine.submit(request)
        return (await generated(engine, request))[0]

    async def other(text: str) -> None:
        """Sampled, without a prompt; half of them go away before the end."""
        await asyncio.sleep(draw.random() / 20)
        question = next(preprocessor.prepare_generation(None, [text], raw=True, max_tokens=None, default=20)).question
        request = Generate(question, max_tokens=30, sampling=Sampling(temperature=1.0))
        engine.submit(request)
        left = draw.choice([2, 100])
        async for _ in engine.generate(request):
            left -= 1
            if not left:
                break

    async def all_at_once() -> list[Any]:
        async with running(engine):
            found = await asyncio.gather(*(one(*question) for question in cases), *map(other, noise))
        assert engine.running == engine.waiting == len(engine.batch) == 0
        return list(found[: len(cases)])

    found = asyncio.run(all_at_once())
    with predicting(cache(lambda **given: tiny.backbone(name, bos=True, **given)), monkeypatch) as predict:
        for (prompt, text), answer in zip(cases, found, strict=True):
            alone = predict(tmp_path / prompt, text)
            if isinstance(answer, str):
                assert answer == alone["prediction"], (prompt, text)
            else:
                shares = torch.tensor(answer, dtype=torch.float64).softmax(0)
                assert_close(shares, list(alone["probabilities"].values()), 1e-4)


@pytest.mark.parametrize(("name", "kind"), [("bart", Seq2SeqCohorts), ("bloom", UncachedBatch)])
def test_other_backbones_take_the_way_that_is_exact_for_them(name: str, kind: type) -> None:
    backbone = tiny.backbone(name)
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always")
        batch = make_running_batch(backbone, PromptCache(10**6))
    assert isinstance(batch, kind)
    assert any("reads each sequence anew" in " ".join(str(note.message).split()) for note in noted) == (name == "bloom")
    texts = ["the parcel is late", "good bad", "how do i log in not very yes"]
    questions = [Question(tuple(backbone.tokens.source_ids(Example(text), 50)[0])) for text in texts]
    expected = [backbone.answer([Example(text)], [-1], max_new_tokens=6)[0] for text in texts]
    assert _greedy(batch, backbone, questions, 6) == expected


def _greedy(batch: Any, backbone: Backbone, questions: list[Question], tokens: int) -> list[str]:
    """The last question joins two steps after the others."""
    made: list[list[int]] = [[] for _ in questions]
    with torch.no_grad():
        chosen = batch.join(questions[:-1]).argmax(-1).tolist()
        for step in range(tokens + 2):
            for ids, token in zip(made, chosen, strict=False):
                ids.append(token)
            chosen = batch.step(chosen).argmax(-1).tolist()
            if step == 1:
                chosen += batch.join(questions[-1:]).argmax(-1).tolist()
    cut = [ids[:tokens] for ids in made]
    cut = [ids[: ids.index(tiny.EOS)] if tiny.EOS in ids else ids for ids in cut]
    return [backbone.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in cut]


def test_a_batch_that_is_not_exact_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    step = CausalBatch.step

    def wrong(self: CausalBatch, tokens: list[int]) -> torch.Tensor:
        logits = step(self, tokens)
        self._lengths[0] += 1  # a column is skipped
        return logits

    monkeypatch.setattr(CausalBatch, "step", wrong)
    with pytest.warns(UserWarning, match="every step reads each sequence anew"):
        assert isinstance(make_running_batch(tiny.backbone("llama"), PromptCache(10**6)), UncachedBatch)


def test_what_is_drawn_with_a_seed_does_not_depend_on_who_else_is_there() -> None:
    engine = Engine(tiny.backbone("llama"), SMALL)
    question = Question((5, 6, 7))

    async def ask(others: int) -> list[str]:
        async with running(engine):
            requests = [
                Generate(question, 12, Sampling(temperature=1.5, top_p=0.9, seed=seed)) for seed in (3, *range(others))
            ]
            engine.submit(*requests)
            return [text for text, _ in await asyncio.gather(*(generated(engine, request) for request in requests))]

    alone = asyncio.run(ask(0))
    engine = Engine(tiny.backbone("llama"), SMALL)
    among = asyncio.run(ask(6))
    assert among[0] == alone[0] == among[4]  # the same seed again
    assert len(set(among)) > 3


def test_a_prompt_is_computed_once_and_forgotten_when_memory_is_full() -> None:
    cache = PromptCache(100)
    cache.put("a", torch.zeros(10))
    cache.put("b", torch.zeros(10))
    assert cache.get("a") is not None
    cache.put("c", torch.zeros(10))
    assert (cache.get("b"), cache.bytes, len(cache)) == (None, 80, 2)
    cache.put("huge", torch.zeros(100))
    assert cache.get("huge") is None
    assert (cache.hits, cache.misses) == (1, 2)
    cache.clear()
    assert (cache.bytes, len(cache), cache.hits) == (0, 0, 0)


def test_the_keys_and_values_of_a_prompt_serve_its_next_question(tmp_path: Path) -> None:
    backbone = tiny.backbone("llama")
    write_all_kinds(tmp_path, backbone)
    engine = Engine(backbone, Batching.on(backbone.device))
    preprocessor = Preprocessor(engine, PromptStore(tmp_path, backbone), Limits())
    before = engine.cache.misses
    with torch.no_grad():
        for _ in range(3):
            teams = preprocessor.load("teams")
            inputs = [*preprocessor.prepare_ranking(teams, ["good", "bad bad"], raw=False, choices=None)]
            finish(engine.batch.score([one.question for one in inputs], [one.ranking for one in inputs]))
    assert (engine.cache.misses - before, engine.cache.hits) == (1, 2)


def test_more_than_may_wait_is_refused_and_nothing_of_it_is_queued() -> None:
    engine = Engine(tiny.backbone("llama"), Batching(rows=2, tokens=100, pass_tokens=64, queue=3))

    async def ask() -> None:
        async with running(engine):
            with engine._news:  # the engine takes nothing meanwhile
                engine.submit(*(Generate(Question((5,)), 2) for _ in range(2)))
                with pytest.raises(QueueFull, match="2 requests are waiting") as refused:
                    engine.submit(*(Generate(Question((5,)), 2) for _ in range(2)))
                assert engine.waiting == 2
                assert 1 <= refused.value.retry_after <= 60
            with pytest.raises(BadInput, match="come to 101 tokens; at most 100 fit"):
                engine.submit(Generate(Question((5,)), 100))

    asyncio.run(ask())


def test_what_was_taken_is_finished_at_the_end_and_nothing_more_is_taken() -> None:
    engine = Engine(tiny.backbone("llama"), SMALL)

    async def ask() -> list[tuple[str, str]]:
        requests = [Generate(Question((5, 6)), 15, Sampling(temperature=1.0, seed=i)) for i in range(6)]
        async with running(engine):
            engine.submit(*requests)
        with pytest.raises(Closing):
            engine.submit(Generate(Question((5,)), 1))
        return list(await asyncio.gather(*(generated(engine, request) for request in requests)))

    assert {finish for _, finish in asyncio.run(ask())} <= {"length", "stop"}


def test_a_request_that_fails_does_not_take_its_neighbours_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(tiny.backbone("llama"), SMALL)
    score = engine.batch.score

    def fragile(questions: Any, rankings: Any) -> Any:
        if any(question.source == (9, 9) for question in questions):
            raise RuntimeError("this one")
        return score(questions, rankings)

    monkeypatch.setattr(engine.batch, "score", fragile)

    async def ask() -> list[Any]:
        async with running(engine):
            requests = [Rank(Question(source), plan_ranking([[5], [6]])) for source in ((5, 6), (9, 9), (7,))]
            engine.submit(*requests)
            return await asyncio.gather(*map(engine.rank, requests), return_exceptions=True)

    first, failed, last = asyncio.run(ask())
    assert len(first) == len(last) == 2
    assert isinstance(failed, RuntimeError)


def overgrown(backbone: Backbone) -> SoftPrompt:
    prompt = SoftPrompt(Free(torch.full((20, backbone.d), 3e38) * torch.tensor([1.0, -1.0] * (backbone.d // 2))))
    return prompt.requires_grad_(False)


@pytest.mark.parametrize("name", ["gpt2", "bart", "t5"])
def test_a_prompt_past_all_measure_fails_alone_whatever_stands_where_it_stood(name: str) -> None:
    """gpt2 and bart normalize by the mean, so such rows are no numbers; those of t5 survive, as zeros."""
    backbone = tiny.backbone(name)
    engine = Engine(backbone, Batching(rows=4, tokens=400, pass_tokens=200, wait=0.001))
    huge = overgrown(backbone)
    sources = [(5, 6, 7), (8, 9), tuple(range(5, 30))]

    async def answers() -> list[Any]:
        ranks = [Rank(Question(source), plan_ranking([[5], [6, 7]])) for source in sources]
        made = [Generate(Question(source), 6) for source in sources]
        engine.submit(*ranks, *made)
        return [
            *await asyncio.gather(*map(engine.rank, ranks)),
            *await asyncio.gather(*(generated(engine, m) for m in made)),
        ]

    async def ask() -> None:
        async with running(engine):
            before = await answers()
            bad: list[Any] = []
            for _ in range(2):
                ranks = [Rank(Question(source, huge, ("huge", 1)), plan_ranking([[5], [6, 7]])) for source in sources]
                made = [Generate(Question(source, huge, ("huge", 1)), 6) for source in sources]
                engine.submit(*ranks, *made)
                bad += await asyncio.gather(*map(engine.rank, ranks), return_exceptions=True)
                bad += await asyncio.gather(*(generated(engine, m) for m in made), return_exceptions=True)
                mixed, after = await asyncio.gather(answers(), answers())
                assert [mixed[3:], after[3:]] == [before[3:]] * 2
                assert_close(torch.tensor([*mixed[:3], *after[:3]]), torch.tensor([*before[:3]] * 2), 1e-5)
            assert {type(one) for one in bad} == ({NotFinite} if name != "t5" else {list, tuple})
            assert len(engine.cache) == 0 or name == "t5"

    asyncio.run(ask())


def test_a_long_ranking_is_done_in_passes_beside_others_and_ends_when_nobody_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backbone = tiny.backbone("llama")
    engine = Engine(backbone, Batching(rows=4, tokens=2000, pass_tokens=64, wait=0))
    draw, passes = random.Random(0), 0
    choices = [[draw.randrange(5, 60) for _ in range(20)] for _ in range(40)]
    run = CausalBatch._run

    def counted(*arguments: Any) -> Any:
        nonlocal passes
        passes += 1
        return run(*arguments)

    monkeypatch.setattr(CausalBatch, "_run", counted)

    async def ask() -> None:
        nonlocal passes
        async with running(engine):
            question = Question((5, 6, 7))
            alone = UncachedBatch(backbone, engine.batching)
            with torch.no_grad():
                expected = finish(alone.score([question], [plan_ranking(choices)]))
            long, short = Rank(question, plan_ranking(choices)), Rank(question, plan_ranking([[5], [6]]))
            made, order, passes = Generate(question, 3), [], 0
            engine.submit(long, short, made)

            async def note(name: str, waited: Any) -> Any:
                found = await waited
                order.append(name)
                return found

            found, *_ = await asyncio.gather(
                note("long", engine.rank(long)),
                note("short", engine.rank(short)),
                note("made", generated(engine, made)),
            )
            assert order[-1] == "long"
            assert passes > 40 * 20 / 64
            assert_close(torch.tensor(found), torch.tensor(expected[0]), 1e-5)
            passes = 0
            left = Rank(question, plan_ranking(choices))
            engine.submit(left)
            while not passes:
                await asyncio.sleep(0)
            left.cancelled = True
            last = Rank(question, plan_ranking([[5], [6]]))
            engine.submit(last)
            await engine.rank(last)

    asyncio.run(ask())
    assert passes < 10


def test_choices_that_never_fit_are_refused() -> None:
    engine = Engine(tiny.backbone("llama"), SMALL)

    async def ask() -> None:
        with pytest.raises(BadInput, match="its choices come to 403 tokens; at most 300 are ranked at once"):
            engine.check(Rank(Question((5, 6, 7)), plan_ranking([[5] * 200, [6] * 200])))

    asyncio.run(ask())


def test_owners_take_turns_and_one_alone_does_not_fill_the_queue() -> None:
    engine = Engine(tiny.backbone("llama"), Batching(rows=1, tokens=100, pass_tokens=64, queue=16, wait=0))

    async def ask() -> list[str]:
        greedy = [Generate(Question((5, i)), 4, owner="greedy") for i in range(14)]
        modest = Generate(Question((7, 8)), 4, owner="modest")
        order: list[str] = []

        async def note(name: str, request: Generate) -> None:
            await generated(engine, request)
            order.append(name)

        async with running(engine):
            engine.submit(*greedy)
            with pytest.raises(QueueFull):
                engine.submit(*(Generate(Question((5,)), 4, owner="greedy") for _ in range(14)))
            engine.submit(modest)
            await asyncio.gather(*(note("greedy", one) for one in greedy), note("modest", modest))
        return order

    assert asyncio.run(ask()).index("modest") <= 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("fails", ["on_rank", "on_join", "on_step"])
def test_whatever_stops_the_engine_leaves_no_request_without_an_answer(
    fails: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(tiny.backbone("llama"), SMALL)

    def fail(rows: int) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(engine.watch, fails, fail)

    async def ask() -> list[Any]:
        async with running(engine):
            requests = [Rank(Question((5, i)), plan_ranking([[5], [6, 7]])) for i in range(4)]
            made = [Generate(Question((5, i)), 9) for i in range(4)]
            engine.submit(*requests, *made)
            waiting = [*map(engine.rank, requests), *(generated(engine, one) for one in made)]
            return await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 10)

    found = asyncio.run(ask())
    assert not engine.alive
    assert any(isinstance(one, Closing) for one in found)
