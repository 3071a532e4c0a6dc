"""What vLLM 0.33.0 does with prompt embeds, on a plain transformers model: read off its source, not imported.

vllm/inputs/llm.py (EmbedsPrompt), vllm/renderers/base.py and embed_utils.py (checks), vllm/v1/worker/
(which positions are embedded), vllm/v1/core/kv_cache_utils.py and vllm/v1/request.py (keys of the prefix cache).
"""

import base64
import hashlib
import io
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

KEYS = {"prompt_embeds", "prompt_token_ids", "prompt_is_token_ids", "cache_salt"}


class Engine:
    """`LLM(model, enable_prompt_embeds=True)`."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.table = model.get_input_embeddings()

    def inputs(self, prompt: dict[str, Any]) -> Tensor:
        """What the network receives for a prompt: (n,d)."""
        assert prompt.keys() <= KEYS
        given: Tensor = prompt["prompt_embeds"]
        assert given.ndim == 2
        assert given.shape[1] == self.table.weight.shape[1]
        if "prompt_is_token_ids" not in prompt:
            return given
        mask, ids = torch.tensor(prompt["prompt_is_token_ids"]), torch.tensor(prompt["prompt_token_ids"])
        assert len(mask) == len(ids) == len(given)
        with torch.no_grad():
            return torch.where(mask[:, None], self.table(ids), given)

    def generate(self, prompts: Sequence[dict[str, Any]], sampling: dict[str, Any]) -> list[Any]:
        return [SimpleNamespace(outputs=[self._one(self.inputs(prompt), **sampling)]) for prompt in prompts]

    def _one(
        self, embeds: Tensor, temperature: float, max_tokens: int, logprob_token_ids: Sequence[int] | None = None
    ) -> Any:
        assert temperature == 0
        given = {"inputs_embeds": embeds[None], "attention_mask": torch.ones(1, len(embeds), dtype=torch.long)}
        with torch.no_grad():
            scores = self.model(**given).logits[0, -1].float().log_softmax(-1)
            made = self.model.generate(**given, max_new_tokens=max_tokens, do_sample=False, pad_token_id=0)[0].tolist()
        told = None
        if logprob_token_ids:
            told = [{i: SimpleNamespace(logprob=float(scores[i])) for i in {*logprob_token_ids, made[0]}}]
        text = self.tokenizer.decode(made, skip_special_tokens=True)
        return SimpleNamespace(text=text, token_ids=made, logprobs=told)


class Server(Engine):
    """`vllm serve MODEL --enable-prompt-embeds`."""

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        """POST /v1/completions."""
        sampling = {key: body[key] for key in ("temperature", "max_tokens", "logprob_token_ids") if key in body}
        assert body.keys() <= {*sampling, "model", "prompt_embeds", "logprobs", "return_tokens_as_token_ids"}
        assert ("logprob_token_ids" in body) <= ("logprobs" in body)
        made = self.generate([{"prompt_embeds": loaded(one)} for one in body["prompt_embeds"]], sampling)
        choices = [{"index": i, **_told(one.outputs[0], body)} for i, one in enumerate(made)]
        return {"choices": choices[::-1]}  # in any order


def loaded(encoded: str) -> Tensor:
    """safe_load_prompt_embeds: this is the server, and the one place that loads such bytes."""
    tensor: Tensor = torch.load(
        io.BytesIO(base64.b64decode(encoded, validate=True)), weights_only=True, map_location="cpu"
    )
    assert tensor.is_floating_point()
    assert tensor.untyped_storage().nbytes() == tensor.nbytes, "more than the tensor was sent"
    return tensor


def _told(output: Any, body: dict[str, Any]) -> dict[str, Any]:
    if output.logprobs is None:
        return {"text": output.text}
    assert body["return_tokens_as_token_ids"]
    return {
        "text": output.text,
        "logprobs": {"top_logprobs": [{f"token_id:{i}": one.logprob for i, one in output.logprobs[0].items()}]},
    }


def block_keys(prompt: dict[str, Any], size: int) -> list[bytes]:
    """Keys of the prompt's full blocks in the prefix cache. As in vLLM the mask itself takes no part (#56655)."""
    embeds = prompt["prompt_embeds"]
    mask = prompt.get("prompt_is_token_ids", [False] * len(embeds))
    ids = [i if real else 0 for i, real in zip(prompt.get("prompt_token_ids", [0] * len(embeds)), mask, strict=True)]
    keys, parent = [], b""
    for begin in range(0, len(embeds) - size + 1, size):
        salt = prompt.get("cache_salt") if begin == 0 else None
        block = hashlib.sha256(embeds[begin : begin + size].contiguous().numpy().tobytes()).hexdigest()
        parent = hashlib.sha256(repr((parent, ids[begin : begin + size], salt, block)).encode()).digest()
        keys.append(parent)
    return keys
