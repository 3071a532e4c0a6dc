"""Use a tuned soft prompt with vLLM. `softprompt export --to vllm` writes a copy of this file beside the prompt.

    prompt.safetensors   the rows (l,d), and what is added to the source's embeddings, if anything
    prompt.json          their sizes, template and choices
    vllm.json            name of the backbone's embedding table, and its scale

It needs torch, safetensors and transformers, not softprompt. Written for vLLM 0.33.0, started with prompt embeds on:

    llm = LLM(backbone, enable_prompt_embeds=True)                          # in this process
    client = Client(backbone)
    client.read(llm.generate(client.prompts("a text"), SamplingParams(**client.sampling())))

    vllm serve BACKBONE --enable-prompt-embeds                              # over HTTP
    client.read_response(requests.post(f"{url}/v1/completions", json=client.body("a text", BACKBONE)).json())

Letters: l prompt length, s source tokens, d hidden size, v vocabulary size, n tokens of a whole request.
"""

import argparse
import base64
import hashlib
import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer
from transformers.utils import cached_file

Json = dict[str, Any]
"""JSON, and arguments of vLLM's classes, whose types are unknown here: vLLM is not imported."""
MOST_LABELS = 128
"""Maximum ids whose log-probabilities vLLM 0.33.0 returns."""


class Client:
    """Makes vLLM's requests for the prompt in `folder` (default: that of this file), and reads its answers.

    `backbone` is the model that vLLM serves: a folder or a hub id, with safetensors. `dtype` is the type of
    the embeddings that are sent; vLLM rounds them to its own. Raises ValueError for a folder that is not complete.
    """

    def __init__(
        self, backbone: str | Path, folder: str | Path | None = None, *, dtype: torch.dtype = torch.float32
    ) -> None:
        place = Path(folder or Path(__file__).parent)
        self.backbone, self.dtype = str(backbone), dtype
        self.card = json.loads((place / "prompt.json").read_text(encoding="utf-8"))
        self.about = json.loads((place / "vllm.json").read_text(encoding="utf-8"))
        if self.about["format"] != 1:
            raise ValueError(f"{place / 'vllm.json'} has format {self.about['format']!r}; this client reads 1.")
        self.sha256 = hashlib.sha256((place / "prompt.safetensors").read_bytes()).hexdigest()
        if self.sha256 != self.about["sha256"]:
            raise ValueError(f"{place / 'prompt.safetensors'} is not the file that was exported. Export it again.")
        self.tensors = load_file(place / "prompt.safetensors")
        self.tokenizer = AutoTokenizer.from_pretrained(self.backbone)
        self.pieces = _parse(self.card["template"])
        self.fields = [name for _, name in self.pieces if name is not None]
        last = max(i for i, (_, name) in enumerate(self.pieces) if name is not None)
        self.cue = "".join(literal for literal, _ in self.pieces[last + 1 :]).rstrip(" ")
        self.choices = {choice: self._continuation(choice) for choice in self.card["choices"]}
        _append_end(self.choices, self.tokenizer.eos_token_id)
        self.tails = _tails(list(self.choices.values()))
        self.labels = sorted({ids[len(tail)] for tail in self.tails for ids in self._continuations(tail)})
        if len(self.labels) > MOST_LABELS:
            raise ValueError(f"{len(self.labels)} tokens tell the answers apart; vLLM scores at most {MOST_LABELS}.")
        self._table: Tensor | None = None

    # Requests

    def prompts(self, text: str | Mapping[str, str], *, max_tokens: int = 20, whole: bool = False) -> list[Json]:
        """Make the `EmbedsPrompt`s of one text (or row with the template's columns), for `LLM.generate`.

        There is one for free text and for choices that differ only in their last token; else one for each beginning of
        a choice, after which its next token is scored. A prompt of kind "prompt" is sent as rows and token ids, which
        vLLM embeds itself, unless `whole`; others are sent as embeddings, for which the backbone's table is read.
        """
        ids = self.source_ids(text, max_tokens)
        if whole or self.card["kind"] != "prompt":
            return [{"prompt_embeds": self.embeds(ids, tail)} for tail in self.tails]
        return [self._mixed([*ids, *tail]) for tail in self.tails]

    def sampling(self, max_tokens: int = 20) -> Json:
        """Return the arguments of `SamplingParams`: greedy, or one scored token where there are choices."""
        if not self.choices:
            return {"temperature": 0.0, "max_tokens": max_tokens}
        return {"temperature": 0.0, "max_tokens": 1, "logprob_token_ids": self.labels}

    def body(self, text: str | Mapping[str, str], model: str, max_tokens: int = 20) -> Json:
        """Make the JSON of a request to /v1/completions for `text`; `model` is the backbone's name on the server."""
        made = [_encode(one["prompt_embeds"]) for one in self.prompts(text, max_tokens=max_tokens, whole=True)]
        scored = {"logprobs": 1, "return_tokens_as_token_ids": True} if self.choices else {}
        return {"model": model, "prompt_embeds": made, **self.sampling(max_tokens), **scored}

    def source_ids(self, text: str | Mapping[str, str], max_tokens: int = 20) -> list[int]:
        """Tokenize the source and its cue. A source that is too long is truncated before the cue."""
        source, cue = self._fill(text)
        ids = self._ids(source + cue)
        if not ids:
            raise ValueError(f"The text {text!r} has no tokens.")
        room = self._room(max_tokens)
        if len(ids) <= room:
            return ids
        end = self._ids(cue, special=False)
        if room <= len(end):
            raise ValueError(f"A source limit of {room} tokens leaves no room beside the cue {cue!r}.")
        return self._ids(source)[: room - len(end)] + end

    def embeds(self, ids: Sequence[int], tail: Sequence[int] = ()) -> Tensor:
        """Embed the whole input (n,d): rows, source, and the ids `tail` of an answer's beginning."""
        x = self._embed([*ids, *tail])
        source = x[: len(ids)]
        if "offset" in self.tensors:
            offset = self.tensors["offset"][: len(ids)].to(self.dtype)
            source[: len(offset)] += offset
        if "network.down" in self.tensors:
            down, down_bias, up, up_bias = (
                self.tensors[f"network.{name}"] for name in ("down", "down_bias", "up", "up_bias")
            )
            source += (torch.relu(source.float() @ down + down_bias) @ up + up_bias).to(self.dtype)
        return torch.cat([self.tensors["prompt"].to(self.dtype), x])

    # Answers

    def read(self, outputs: Sequence[Any]) -> Json:
        """Read the answer from `LLM.generate`'s outputs for one text, in the form of `softprompt predict`."""
        firsts = [output.outputs[0] for output in outputs]
        if not self.choices:
            return {"prediction": firsts[0].text.strip(), "probabilities": None}
        return self._choose([{i: one.logprob for i, one in first.logprobs[0].items()} for first in firsts])

    def read_response(self, response: Json) -> Json:
        """Read the answer from the JSON of a response of /v1/completions."""
        found = sorted(response["choices"], key=lambda choice: int(choice["index"]))
        if not self.choices:
            return {"prediction": found[0]["text"].strip(), "probabilities": None}
        tops = [choice["logprobs"]["top_logprobs"][0].items() for choice in found]
        return self._choose([{int(name.removeprefix("token_id:")): value for name, value in one} for one in tops])

    def _choose(self, found: Sequence[Mapping[int, float]]) -> Json:
        """Return the likeliest choice, from log-probabilities by id at each of `tails`."""
        at = dict(zip(map(tuple, self.tails), found, strict=True))
        first = len(self.tails[0])  # what all choices begin with is not scored
        scores = {
            choice: sum(at[tuple(ids[:i])][ids[i]] for i in range(first, len(ids)))
            for choice, ids in self.choices.items()
        }
        highest = max(scores.values())
        shares = {choice: math.exp(score - highest) for choice, score in scores.items()}
        total = sum(shares.values())
        best = max(shares, key=lambda choice: shares[choice])
        return {"prediction": best, "probabilities": {choice: share / total for choice, share in shares.items()}}

    # Tokens, as in softprompt's decoder-only backbones

    def _fill(self, text: str | Mapping[str, str]) -> tuple[str, str]:
        """Fill the template: the source, up to and with the last column, and the cue after it."""
        if isinstance(text, str):
            if len(self.fields) != 1:
                raise ValueError(f"This prompt reads {len(self.fields)} columns; give {', '.join(self.fields)}.")
            text = {self.fields[0]: text}
        missing = [name for name in self.fields if name not in text]
        if missing:
            raise ValueError(f"The template needs the column {missing[0]!r}; given: {', '.join(text) or 'none'}.")
        filled = [literal + str(text[name]) for literal, name in self.pieces if name is not None]
        return "".join(filled), self.cue

    def _ids(self, text: str, special: bool = True) -> list[int]:
        ids: list[int] = self.tokenizer([text], add_special_tokens=special, verbose=False).input_ids[0]
        return ids

    def _continuation(self, text: str) -> list[int]:
        """Tokenize " text" after other text, or "text" where it begins a turn of a chat.

        An anchor stands before it, as some tokenizers mark the start of every text.
        """
        special = [token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special]
        turn = self.cue.endswith(("\n", *special)) and any(token in self.cue for token in special)
        before, told = ("\n", text) if turn else (":", f" {text}")
        anchor, whole = self._ids(before, special=False), self._ids(before + told, special=False)
        return whole[len(anchor) :] if whole[: len(anchor)] == anchor else self._ids(told, special=False)

    def _room(self, max_tokens: int) -> int:
        """Return the maximum number of source tokens."""
        answer = max(map(len, self.choices.values()), default=max_tokens)
        context, most = self.about["context"], int(self.card["max_source"])
        room = most if context is None else min(most, context - self.card["length"] - answer)
        if room < 1:
            raise ValueError(f"{self.card['length']} rows and {answer} answer tokens fill all {context} positions.")
        return room

    def _continuations(self, tail: Sequence[int]) -> list[list[int]]:
        return [ids for ids in self.choices.values() if ids[: len(tail)] == list(tail) and len(ids) > len(tail)]

    # Embeddings

    def _mixed(self, ids: list[int]) -> Json:
        """Make an input of rows, then ids that vLLM embeds itself (from 0.21.0 on).

        Its prefix cache ignores the mask (vLLM #56655), so a row of zeros could be taken for id 0. With the prompt's
        hash as salt, a position is always a row or always an id, and blocks are still shared.
        """
        rows = self.tensors["prompt"].to(self.dtype)
        return {
            "prompt_embeds": torch.cat([rows, rows.new_zeros(len(ids), rows.shape[1])]),
            "prompt_token_ids": [0] * len(rows) + ids,
            "prompt_is_token_ids": [False] * len(rows) + [True] * len(ids),
            "cache_salt": self.sha256,
        }

    def _embed(self, ids: list[int]) -> Tensor:
        """Embed ids (n,d), scaled as the network receives them."""
        if self._table is None:
            self._table = self._read_table()
        scale = torch.tensor(self.about["scale"]).to(self.dtype)
        return self._table[torch.tensor(ids)].to(self.dtype) * scale

    def _read_table(self) -> Tensor:
        """Read the embedding table (v,d) from the backbone's safetensors. Raises ValueError for another backbone's."""
        name, fingerprint = self.about["table"], self.card["fingerprint"]
        # transformers 5.23.0, private argument: without it a checkpoint in one file raises for its missing index.
        index = cached_file(self.backbone, "model.safetensors.index.json", _raise_exceptions_for_missing_entries=False)
        files = json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"] if index else {}
        key = _find(name, files)
        path = cached_file(self.backbone, files.get(key, "model.safetensors"))
        with safe_open(path, "pt") as opened:
            key = key or _find(name, opened.keys())
            if key is None:
                raise ValueError(f"{path} has no {name}; give the backbone {self.card['backbone']}.")
            table: Tensor = opened.get_tensor(key)
        rounded = table.to(getattr(torch, fingerprint["dtype"])).to(torch.bfloat16).contiguous().view(torch.int16)
        found = hashlib.sha256(rounded.numpy().tobytes()).hexdigest()
        if found != fingerprint["sha256"]:
            raise ValueError(
                f"The prompt was tuned for {self.card['backbone']} (v={fingerprint['v']}, d={fingerprint['d']}, table "
                f"{fingerprint['sha256'][:8]}), not for {self.backbone} ({tuple(table.shape)}, table {found[:8]})."
            )
        return table


def _parse(template: str) -> list[tuple[str, str | None]]:
    """Cut a template into text and the name of the column after it; None where there is none."""
    pieces: list[tuple[str, str | None]] = []
    literal = ""
    for part in re.findall(r"\{\{|\}\}|\{[^{}]*\}|[^{}]+", template):
        if part[0] == "{" and part != "{{":
            pieces.append((literal, part[1:-1]))
            literal = ""
        else:
            literal += part[0] if part in ("{{", "}}") else part
    return [*pieces, (literal, None)]


def _tails(choices: list[list[int]]) -> list[list[int]]:
    """List the beginnings of choices after which a token is scored; [[]] without choices.

    The first is what all choices begin with: the only one when they differ only in the next token.
    """
    if not choices:
        return [[]]
    shared = 0
    while all(len(ids) > shared + 1 and ids[: shared + 1] == choices[0][: shared + 1] for ids in choices):
        shared += 1
    found = {tuple(ids[:i]): None for ids in choices for i in range(shared, len(ids))}
    return sorted((list(tail) for tail in found), key=len)


def _append_end(choices: dict[str, list[int]], eos: int) -> None:
    """Append the end of sequence where one choice begins another: else the shorter could never lose."""
    ids = list(choices.values())
    if any(a is not b and b[: len(a)] == a for a in ids for b in ids):
        for one in ids:
            one.append(eos)


def _find(name: str, keys: Iterable[str]) -> str | None:
    """Find the key of parameter `name` in a checkpoint, which may omit its first part or have one more."""
    alike = [key for key in keys if key == name or name.endswith(f".{key}") or key.endswith(f".{name}")]
    return name if name in alike else alike[0] if len(alike) == 1 else None


def _encode(embeds: Tensor) -> str:
    """Encode as base64 of torch.save, the only form that vLLM's server reads. Nothing here ever loads such bytes."""
    with io.BytesIO() as made:
        torch.save(embeds.clone(), made)
        return base64.b64encode(made.getvalue()).decode("ascii")


def main(words: Sequence[str] | None = None) -> None:
    """Print the body of a request to vLLM's /v1/completions."""
    parser = argparse.ArgumentParser(description="Print the body of a request to vLLM's /v1/completions.")
    parser.add_argument("text", help="Text or, for a template of several columns, JSON object.")
    parser.add_argument("--backbone", required=True, help="Folder or hub id of the model that vLLM serves.")
    parser.add_argument("--model", help="Name of the model on the server (default: --backbone).")
    parser.add_argument("--max-tokens", type=int, default=20, help="Maximum tokens per free-text answer.")
    given = parser.parse_args(words)
    client = Client(given.backbone)
    text = given.text if len(client.fields) == 1 else json.loads(given.text)
    print(json.dumps(client.body(text, given.model or given.backbone, given.max_tokens)))


if __name__ == "__main__":
    main()
