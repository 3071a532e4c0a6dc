"""Turn request bodies into requests to the engine."""

from collections.abc import Sequence
from dataclasses import replace

from softprompt.errors import BadInput
from softprompt.serving.engine.constraint import JSON_OBJECT, choice_grammar, json_grammar, regex_grammar
from softprompt.serving.engine.requests import Generate, Rank
from softprompt.serving.engine.sampler import Sampling
from softprompt.serving.http.schema import ChatBody, CompletionBody, SamplingBody
from softprompt.serving.preprocess import PreparedInput


def completion_requests(
    body: SamplingBody, inputs: Sequence[PreparedInput], sampling: Sampling, owner: str = "", *, strip: bool = True
) -> list[Generate]:
    """Make `n` requests for each text; with a seed, each text gets the tokens that it would get alone.

    Args:
        body: What the client sent.
        inputs: Its texts.
        sampling: How tokens are chosen.
        owner: Who sent it.
        strip: Without blanks at the ends of the answers.
    """
    stops, requests = tuple(body.stop or ()), []
    for one in inputs:
        for k in range(body.n or 1):
            own = sampling if sampling.seed is None else replace(sampling, seed=sampling.seed + k)
            requests.append(Generate(one.question, one.max_tokens, own, stops, strip, owner=owner))
    return requests


def sampling_of(body: SamplingBody, v: int, grammar: str | None) -> Sampling:
    """Read how tokens are chosen. Raises BadInput for a token that a vocabulary of `v` does not have."""
    bias: dict[int, float] = {}
    for token, value in (body.logit_bias or {}).items():
        if not token.isascii() or not token.isdigit():
            raise BadInput(f"logit_bias: {token[:40]!r} is not a token id; expected numbers, as /tokenize gives them.")
        bias[int(token)] = value
    for token in (*bias, *(body.stop_token_ids or ())):
        if not 0 <= token < v:
            raise BadInput(f"The token {token} is past the vocabulary, which has {v}.")
    reported: int | None = None
    if isinstance(body, CompletionBody):
        reported = body.logprobs
    elif isinstance(body, ChatBody) and body.logprobs:
        reported = body.top_logprobs or 0
    return Sampling(
        temperature=body.temperature or 0.0,
        top_p=1.0 if body.top_p is None else body.top_p,
        seed=body.seed,
        logprobs=reported,
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        bias=bias,
        stop_tokens=frozenset(body.stop_token_ids or ()),
        min_tokens=body.min_tokens,
        grammar=grammar,
    )


def grammar_of(body: SamplingBody, choices: Sequence[str]) -> str | None:
    """Read what the answer must be; None: anything. `choices` are the prompt's own."""
    format, given = body.response_format, body.structured_outputs
    if given is not None:
        named = [name for name in ("json_", "regex", "choice", "grammar") if getattr(given, name) is not None]
        if len(named) != 1 or (format is not None and format.type != "text"):
            raise BadInput("structured_outputs takes one of json, regex, choice and grammar, without response_format.")
        if given.json_ is not None:
            return json_grammar(given.json_)
        if given.regex is not None:
            return regex_grammar(given.regex)
        return given.grammar if given.choice is None else choice_grammar(given.choice)
    match None if format is None else format.type:
        case "json_object":
            return json_grammar(JSON_OBJECT)
        case "json_schema":
            if format is None or format.json_schema is None:
                raise BadInput("response_format: the type json_schema needs json_schema, with its schema.")
            return json_grammar(format.json_schema.schema_)
        case "choice":
            if not choices:
                raise BadInput("response_format: this prompt has no choices; give structured_outputs with choice.")
            return choice_grammar(choices)
    return None


def rank_requests(inputs: Sequence[PreparedInput], owner: str = "") -> list[Rank]:
    """Make a request for each text whose choices are ranked."""
    return [Rank(one.question, one.ranking, owner=owner) for one in inputs]
