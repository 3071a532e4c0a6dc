"""Asks vLLM with a soft prompt that softprompt tuned. `softprompt export --to vllm` puts a copy of this file beside it.

    prompt.safetensors   the rows (l,d), and what is added to the source's embeddings, if anything
    prompt.json          what they are
    vllm.json            where the backbone keeps its embedding table, and how it scales it

It needs torch, safetensors and transformers, not softprompt. Read against vLLM 0.33.0, started with prompt embeds on:

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
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer
from transformers.utils import cached_file

MOST_LABELS = 128
"""The most ids whose log-probabilities vLLM 0.33.0 returns."""


class Client:
    """Makes vLLM's requests for the prompt in `folder` (default: where this file lies), and reads its answers.

    `backbone` is the model that vLLM serves: a folder or a hub id, with safetensors. `dtype` is that of the embeddings
    that are made; vLLM rounds them to its own. Raises ValueError for a folder that is not whole.
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
        self.pieces = list(string.Formatter().parse(self.card["template"]))
        self.fields = [name for _, name, _, _ in self.pieces if name is not None]
        self.choices = {choice: self._continuation(choice) for choice in self.card["choices"]}
        _end_nested(self.choices, self.tokenizer.eos_token_id)
        self.tails = _tails(list(self.choices.values()))
        self.labels = sorted({ids[len(tail)] for tail in self.tails for ids in self._behind(tail)})
        if len(self.labels) > MOST_LABELS:
            raise ValueError(f"The answers are told apart by {len(self.labels)} tokens; vLLM tells {MOST_LABELS}.")
        self._table: Tensor | None = None

    # What vLLM is given

    def prompts(
        self, text: str | Mapping[str, str], *, max_tokens: int = 20, whole: bool = False
    ) -> list[dict[str, Any]]:
        """The `EmbedsPrompt`s that ask `text`, a text or a row with the template's columns, for `LLM.generate`.

        One, for free text and for choices that differ in their last token alone; else one for each beginning of a
        choice, behind which its next token is scored. A prompt of kind "prompt" goes as rows and token ids, which vLLM
        embeds by itself, unless `whole`; others go as embeddings alone, for which the backbone's table is read.
        """
        ids = self.source_ids(text, max_tokens)
        if whole or self.card["kind"] != "prompt":
            return [{"prompt_embeds": self.embeds(ids, tail)} for tail in self.tails]
        return [self._mixed([*ids, *tail]) for tail in self.tails]

    def sampling(self, max_tokens: int = 20) -> dict[str, Any]:
        """What `SamplingParams` is given: greedy, or one token that is scored where there are choices."""
        if not self.choices:
            return {"temperature": 0.0, "max_tokens": max_tokens}
        return {"temperature": 0.0, "max_tokens": 1, "logprob_token_ids": self.labels}

    def body(self, text: str | Mapping[str, str], model: str, max_tokens: int = 20) -> dict[str, Any]:
        """The JSON of a request to /v1/completions that asks `text`; `model` is the backbone's name there."""
        made = [_encoded(one["prompt_embeds"]) for one in self.prompts(text, max_tokens=max_tokens, whole=True)]
        told = {"logprobs": 1, "return_tokens_as_token_ids": True} if self.choices else {}
        return {"model": model, "prompt_embeds": made, **self.sampling(max_tokens), **told}

    def source_ids(self, text: str | Mapping[str, str], max_tokens: int = 20) -> list[int]:
        """Ids of the source and its cue. A longer source than the prompt reads is cut before the cue."""
        source, cue = self._filled(text)
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
        """The whole input (n,d) of the network: rows, source, and the ids `tail` of an answer's beginning."""
        x = self._embedded([*ids, *tail])
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

    # What vLLM answers

    def read(self, outputs: Sequence[Any]) -> dict[str, Any]:
        """The answer in the outputs of `LLM.generate` for one text's prompts: as `softprompt predict` gives it."""
        firsts = [output.outputs[0] for output in outputs]
        if not self.choices:
            return {"prediction": firsts[0].text.strip(), "probabilities": None}
        return self._chosen([{i: one.logprob for i, one in first.logprobs[0].items()} for first in firsts])

    def read_response(self, response: Mapping[str, Any]) -> dict[str, Any]:
        """The same, in the JSON of a response from /v1/completions."""
        found = sorted(response["choices"], key=lambda choice: int(choice["index"]))
        if not self.choices:
            return {"prediction": found[0]["text"].strip(), "probabilities": None}
        told = [choice["logprobs"]["top_logprobs"][0].items() for choice in found]
        return self._chosen([{int(name.removeprefix("token_id:")): value for name, value in one} for one in told])

    def _chosen(self, found: Sequence[Mapping[int, float]]) -> dict[str, Any]:
        """The likeliest choice, from log-probabilities by id at each of `tails`."""
        at = dict(zip(map(tuple, self.tails), found, strict=True))
        first = len(self.tails[0])  # what all choices begin with takes no part
        scores = {
            choice: sum(at[tuple(ids[:i])][ids[i]] for i in range(first, len(ids)))
            for choice, ids in self.choices.items()
        }
        highest = max(scores.values())
        shares = {choice: math.exp(score - highest) for choice, score in scores.items()}
        total = sum(shares.values())
        best = max(shares, key=lambda choice: shares[choice])
        return {"prediction": best, "probabilities": {choice: share / total for choice, share in shares.items()}}

    # Tokens: as softprompt's decoder-only backbones make them

    def _filled(self, text: str | Mapping[str, str]) -> tuple[str, str]:
        """The source, up to and with the template's last column, and the cue behind it."""
        pieces = self.pieces
        if isinstance(text, str):
            if len(self.fields) != 1:
                raise ValueError(f"This prompt reads {len(self.fields)} columns; give {', '.join(self.fields)}.")
            text = {self.fields[0]: text}
        missing = [name for name in self.fields if name not in text]
        if missing:
            raise ValueError(f"The template needs the column {missing[0]!r}; given: {', '.join(text) or 'none'}.")
        last = max(i for i, piece in enumerate(pieces) if piece[1] is not None)
        filled = [before + ("" if name is None else str(text[name])) for before, name, _, _ in pieces]
        return "".join(filled[: last + 1]), "".join(filled[last + 1 :]).rstrip(" ")

    def _ids(self, text: str, special: bool = True) -> list[int]:
        ids: list[int] = self.tokenizer([text], add_special_tokens=special, verbose=False).input_ids[0]
        return ids

    def _continuation(self, text: str) -> list[int]:
        """Ids of " text" after other text, read off behind an anchor: some tokenizers mark the start of every text."""
        anchor, whole = self._ids(":", special=False), self._ids(f": {text}", special=False)
        return whole[len(anchor) :] if whole[: len(anchor)] == anchor else self._ids(f" {text}", special=False)

    def _room(self, max_tokens: int) -> int:
        """Source tokens there is room for."""
        answer = max(map(len, self.choices.values()), default=max_tokens)
        context, most = self.about["context"], int(self.card["max_source"])
        room = most if context is None else min(most, context - self.card["length"] - answer)
        if room < 1:
            raise ValueError(f"{self.card['length']} rows and {answer} tokens fill the {context} positions there are.")
        return room

    def _behind(self, tail: Sequence[int]) -> list[list[int]]:
        return [ids for ids in self.choices.values() if ids[: len(tail)] == list(tail) and len(ids) > len(tail)]

    # Embeddings

    def _mixed(self, ids: list[int]) -> dict[str, Any]:
        """Rows, then ids that vLLM embeds itself (from 0.21.0 on).

        Its prefix cache does not look at the mask (vLLM #56655), so a row of zeros could be taken for id 0. Salted with
        the prompt's own hash, a position is always a row or always an id, and blocks are shared as before.
        """
        rows = self.tensors["prompt"].to(self.dtype)
        return {
            "prompt_embeds": torch.cat([rows, rows.new_zeros(len(ids), rows.shape[1])]),
            "prompt_token_ids": [0] * len(rows) + ids,
            "prompt_is_token_ids": [False] * len(rows) + [True] * len(ids),
            "cache_salt": self.sha256,
        }

    def _embedded(self, ids: list[int]) -> Tensor:
        """Embeddings (n,d) as the network receives them."""
        if self._table is None:
            self._table = self._read_table()
        scale = torch.tensor(self.about["scale"]).to(self.dtype)
        return self._table[torch.tensor(ids)].to(self.dtype) * scale

    def _read_table(self) -> Tensor:
        """The embedding table (v,d), from the backbone's own safetensors. Raises ValueError for another backbone's."""
        name, told = self.about["table"], self.card["fingerprint"]
        index = cached_file(self.backbone, "model.safetensors.index.json", _raise_exceptions_for_missing_entries=False)
        files = json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"] if index else {}
        key = _find(name, files)
        path = cached_file(self.backbone, files.get(key, "model.safetensors"))
        with safe_open(path, "pt") as opened:
            key = key or _find(name, opened.keys())
            if key is None:
                raise ValueError(f"{path} has no {name}; give the backbone {self.card['backbone']}.")
            table: Tensor = opened.get_tensor(key)
        rounded = table.to(getattr(torch, told["dtype"])).to(torch.bfloat16).contiguous().view(torch.int16)
        found = hashlib.sha256(rounded.numpy().tobytes()).hexdigest()
        if found != told["sha256"]:
            raise ValueError(
                f"The prompt was tuned for {self.card['backbone']} (v={told['v']}, d={told['d']}, table "
                f"{told['sha256'][:8]}), not for {self.backbone} ({tuple(table.shape)}, table {found[:8]})."
            )
        return table


def _tails(choices: list[list[int]]) -> list[list[int]]:
    """Beginnings of the choices behind which their scores are read; [[]] without choices.

    First what all begin with: if they differ in the next token alone, that is all.
    """
    if not choices:
        return [[]]
    shared = 0
    while all(len(ids) > shared + 1 and ids[: shared + 1] == choices[0][: shared + 1] for ids in choices):
        shared += 1
    found = {tuple(ids[:i]): None for ids in choices for i in range(shared, len(ids))}
    return sorted((list(tail) for tail in found), key=len)


def _end_nested(choices: dict[str, list[int]], eos: int) -> None:
    """Where one choice begins another, the end-of-sequence token counts too: else the shorter could never lose."""
    ids = list(choices.values())
    if any(a is not b and b[: len(a)] == a for a in ids for b in ids):
        for one in ids:
            one.append(eos)


def _find(name: str, keys: Any) -> str | None:
    """The key of parameter `name` in a checkpoint, which may leave out its first part or have one more."""
    alike = [key for key in keys if key == name or name.endswith(f".{key}") or key.endswith(f".{name}")]
    return name if name in alike else alike[0] if len(alike) == 1 else None


def _encoded(embeds: Tensor) -> str:
    """base64 of torch.save: vLLM's server reads this and nothing else. Nothing here ever loads such bytes."""
    with io.BytesIO() as made:
        torch.save(embeds.clone(), made)
        return base64.b64encode(made.getvalue()).decode("ascii")


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Print the body of a request to vLLM's /v1/completions.")
    parser.add_argument("text", help="a text or, for a template of several columns, a JSON object")
    parser.add_argument("--backbone", required=True, help="folder or hub id of the model that vLLM serves")
    parser.add_argument("--model", help="its name there (default: that of --backbone)")
    parser.add_argument("--max-tokens", type=int, default=20, help="of an answer in free text")
    given = parser.parse_args(words)
    client = Client(given.backbone)
    text = given.text if len(client.fields) == 1 else json.loads(given.text)
    print(json.dumps(client.body(text, given.model or given.backbone, given.max_tokens)))


if __name__ == "__main__":
    main()
