"""Attend over a packed row: each example to itself and to its prompt, without a mask over the whole row.

Registered with transformers under `NAME`. Outside a packed forward it is transformers' own SDPA attention.
The two softmaxes, over an example's own tokens and over its prompt's rows, are merged by their
log-sum-exp (as in FlashAttention, https://arxiv.org/abs/2205.14135, and Hydragen,
https://arxiv.org/abs/2402.05099); the backward pass computes the scores anew, so memory is linear in the tokens.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from softprompt.backbones.ops.autograd import AutogradContext
from softprompt.backbones.ops.packing import Group, MaskedRows, Own, Packing, Unpackable

NAME = "softprompt"
BLOCK = 128
"""Queries of a long example at a time: the keys after the block's last are never computed."""

_active: ContextVar[Packing | None] = ContextVar("packing", default=None)


@contextmanager
def packed(packing: Packing) -> Iterator[None]:
    """Let a model that attends by `NAME` read one row laid out as `packing`."""
    token = _active.set(packing)
    try:
        yield
    finally:
        _active.reset(token)


def _mask(*, mask_function: Callable[..., Tensor], **given: object) -> object:
    """Make the attention mask of a layer: in a packed forward, the packing under this layer type's mask."""
    packing = _active.get()
    if packing is None:
        return sdpa_mask(mask_function=mask_function, **given)
    if given.get("use_vmap"):
        raise Unpackable("its attention mask is made from columns, not from positions")
    nothing = packing.position.new_zeros(())
    return packing.masked(lambda query, key: mask_function(nothing, nothing, query, key))


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: object, **given: object
) -> tuple[Tensor, None]:
    if not isinstance(attention_mask, MaskedRows):
        if _active.get() is not None:
            raise Unpackable("an attention layer does not ask transformers for its mask")
        made: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **given)
        return made
    for name in ("softcap", "s_aux", "position_bias"):
        if given.get(name) is not None:
            raise Unpackable(f"its attention uses {name!r}")
    if given.get("dropout"):
        raise Unpackable("its attention drops out at random")
    packing, scale = attention_mask.packing, given.get("scaling")
    front = key[0, :, : packing.prompts], value[0, :, : packing.prompts]
    remembered = front if packing.memory is None else packing.memory[module]
    if packing.recorded is not None:
        packing.recorded[module] = front
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    out: Tensor = _Attend.apply(query[0], key[0], value[0], *remembered, attention_mask, scale)  # type: ignore[no-untyped-call]
    return out.unsqueeze(0), None  # (1, n, heads, head size)


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, _mask)


class _AttendContext(AutogradContext, Protocol):
    mask: MaskedRows
    scale: float


class _Attend(torch.autograd.Function):
    """Map q (h, n, e), k and v (kv, n, e), prompts' keys and values (kv, l, e) to (n, h, e); h is a multiple of kv."""

    @staticmethod
    def forward(
        ctx: _AttendContext, q: Tensor, k: Tensor, v: Tensor, pk: Tensor, pv: Tensor, mask: MaskedRows, scale: float
    ) -> Tensor:
        """Attend.

        Args:
            ctx: Gets the inputs, the result and the log of the softmax's sum.
            q: (h, n, e).
            k: (kv, n, e).
            v: (kv, n, e).
            pk: (kv, l, e), keys of the prompts.
            pv: (kv, l, e), values of the prompts.
            mask: How the row is packed, and who sees whom.
            scale: Factor of the scores.
        """
        heads = (k.shape[0], q.shape[0] // k.shape[0])
        # A token's heads together, as the model made them
        q, k, v = (t.transpose(0, 1).contiguous() for t in (q, k, v))
        queries = _split(q * scale, heads)  # (n, kv, g, e)
        # A softmax in two parts: its largest score, its sum and its weighted values, first over the prompts' rows.
        top = q.new_full((q.shape[0], *heads), -torch.inf, dtype=torch.float32)  # (n, kv, g)
        total, out = torch.zeros_like(top), torch.zeros_like(queries)
        for (columns, rows), hidden in zip(mask.packing.shared, mask.shared, strict=True):
            scores = _scores(_by_head(queries[columns]), pk[:, rows], heads[1], hidden)  # (kv, m, g, l)
            highest = scores.amax(-1).clamp_(min=torch.finfo(torch.float32).min)  # a row may see nothing of the prompt
            weights = scores.sub_(highest.unsqueeze(-1)).exp_()
            top[columns], total[columns] = highest.transpose(0, 1), weights.sum(-1).transpose(0, 1)
            made = torch.bmm(weights.flatten(1, 2).to(q.dtype), pv[:, rows])
            out[columns] = _split(made, (-1, heads[1]), 1).transpose(0, 1)
        for group, own in zip(mask.packing.groups, mask.own, strict=True):
            _own_forward(group, own, queries, k, v, (top, total, out))
        ctx.mask, ctx.scale = mask, scale
        ctx.save_for_backward(q, k, v, pk, pv, top.add_(total.log_()), out)
        return out.flatten(1, 2)

    @staticmethod
    def backward(ctx: _AttendContext, *given: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, pk, pv, lse, out = ctx.saved_tensors  # lse: log of the softmax's sum, (n, kv, g)
        heads = lse.shape[1:]
        queries, gradient = _split(q * ctx.scale, heads), _split(given[0].contiguous(), heads)
        delta = (gradient.float() * out.float()).sum(-1)  # (n, kv, g)
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        dpk, dpv = torch.zeros_like(pk), torch.zeros_like(pv)
        for group, own in zip(ctx.mask.packing.groups, ctx.mask.own, strict=True):
            _own_backward(group, own, queries, k, v, lse, gradient, delta, (dq, dk, dv))
        for (columns, rows), hidden in zip(ctx.mask.packing.shared, ctx.mask.shared, strict=True):
            ours, g, keys = _by_head(queries[columns]), _by_head(gradient[columns]), pk[:, rows]
            weights = _scores(ours, keys, heads[1], hidden).sub_(lse[columns].transpose(0, 1).unsqueeze(-1)).exp_()
            dpv[:, rows] += torch.bmm(weights.flatten(1, 2).to(q.dtype).transpose(1, 2), g)
            slope = _slope(weights, g, pv[:, rows], delta[columns].transpose(0, 1), q.dtype)  # (kv, m * g, l)
            dpk[:, rows] += torch.bmm(slope.transpose(1, 2), ours)
            dq[columns] += _by_token(torch.bmm(slope, keys), heads[1])
        dq *= ctx.scale
        return dq.transpose(0, 1), dk.transpose(0, 1), dv.transpose(0, 1), dpk, dpv, None, None


def _own_forward(
    group: Group, own: Own, queries: Tensor, k: Tensor, v: Tensor, state: tuple[Tensor, Tensor, Tensor]
) -> None:
    """Attend within the segments of a group, and end the softmax that `state` (top, total, out) began."""
    top, total, out = state
    asked, before = _heads_first(group.padded(queries)), _heads_first(group.padded(top))  # (g, kv, s, h, e), ...
    keys, values = (_heads_first(group.padded(t)).flatten(0, 1) for t in (k, v))  # (g * kv, s, e)
    made, tops, sums = [], [], []
    for block, scores in _blocks(asked, keys, own):
        highest = torch.maximum(before[:, :, block], scores.amax(-1))
        weights = scores.sub_(highest.unsqueeze(-1)).exp_()
        new = torch.bmm(weights.flatten(0, 1).flatten(1, 2).to(out.dtype), values[:, : block.stop])
        made.append(new.view(*weights.shape[:-1], -1))
        tops.append(highest)
        sums.append(weights.sum(-1))
    new, highest, sum_ = (group.unpadded(_heads_first(torch.cat(parts, 2))) for parts in (made, tops, sums))
    columns = slice(group.start, group.start + sum(group.lengths))
    shrunk = torch.exp(top[columns] - highest)
    top[columns] = highest
    total[columns] = total[columns] * shrunk + sum_
    out[columns] = (out[columns] * shrunk.unsqueeze(-1) + new) / total[columns].unsqueeze(-1)


def _own_backward(
    group: Group,
    own: Own,
    queries: Tensor,
    k: Tensor,
    v: Tensor,
    lse: Tensor,
    gradient: Tensor,
    delta: Tensor,
    into: tuple[Tensor, Tensor, Tensor],
) -> None:
    """Write what a group's own attention contributes to the gradients of q, k and v."""
    asked, grads = _heads_first(group.padded(queries)), _heads_first(group.padded(gradient))
    keys, values = (_heads_first(group.padded(t)).flatten(0, 1) for t in (k, v))
    total, deltas = group.padded(lse), _heads_first(group.padded(delta))
    if group.padding is not None:  # padding attends to nothing: exp(score - inf) = 0
        total = total.masked_fill(group.padding[:, :, None, None], torch.inf)
    total = _heads_first(total)
    dq, dk, dv = [], torch.zeros_like(keys), torch.zeros_like(values)
    for block, scores in _blocks(asked, keys, own):
        weights = scores.sub_(total[:, :, block].unsqueeze(-1)).exp_().flatten(0, 1)  # (g * kv, block, h, keys)
        ours, grad = (t[:, :, block].flatten(0, 1).flatten(1, 2) for t in (asked, grads))
        near = slice(0, block.stop)
        dv[:, near] += torch.bmm(weights.flatten(1, 2).to(grad.dtype).transpose(1, 2), grad)
        slope = _slope(weights, grad, values[:, near], deltas[:, :, block].flatten(0, 1), grad.dtype)
        dk[:, near] += torch.bmm(slope.transpose(1, 2), ours)
        dq.append(torch.bmm(slope, keys[:, near]).view_as(asked[:, :, block]))
    columns = slice(group.start, group.start + sum(group.lengths))
    into[0][columns] = group.unpadded(_heads_first(torch.cat(dq, 2))).flatten(1, 2)
    for whole, new in zip(into[1:], (dk, dv), strict=True):
        whole[columns] = group.unpadded(_heads_first(_split(new, (len(group.lengths), -1), 0)))


def _blocks(asked: Tensor, keys: Tensor, own: Own) -> Iterator[tuple[slice, Tensor]]:
    """Scores (g, kv, block, h, keys) of a block of queries at a time, with the keys up to its last."""
    g, kv, s, h, _ = asked.shape
    for begin in range(0, s, BLOCK):
        block = slice(begin, min(begin + BLOCK, s))
        masked = slice(begin if own.causal else 0, block.stop)  # plain causal: all keys before the block are seen
        ours = asked[:, :, block].reshape(g * kv, -1, asked.shape[-1])
        scores = torch.bmm(ours, keys[:, : block.stop].transpose(1, 2)).float().view(g, kv, -1, h, block.stop)
        scores[..., masked] += own.hidden[:, None, block, None, masked]
        yield block, scores


def _scores(ours: Tensor, keys: Tensor, h: int, hidden: Tensor | None) -> Tensor:
    """Scores (kv, m, h, l) of queries (kv, m * h, e) to a prompt's keys (kv, l, e)."""
    scores = _split(torch.bmm(ours, keys.transpose(1, 2)).float(), (-1, h), 1)
    return scores if hidden is None else scores.add_(hidden.unsqueeze(1))


def _slope(weights: Tensor, grad: Tensor, values: Tensor, delta: Tensor, dtype: torch.dtype) -> Tensor:
    """Gradient (x, m * h, keys) of the scores behind `weights` (x, m, h, keys)."""
    slope = torch.bmm(grad, values.transpose(1, 2)).float().view_as(weights)
    return slope.sub_(delta.unsqueeze(-1)).mul_(weights).flatten(1, 2).to(dtype)


def _heads_first(tokens: Tensor) -> Tensor:
    """(g, s, kv, ...) to (g, kv, s, ...) or back."""
    return tokens.transpose(1, 2)


def _by_head(tokens: Tensor) -> Tensor:
    """(m, kv, h, e) to (kv, m * h, e)."""
    return tokens.transpose(0, 1).flatten(1, 2)


def _by_token(made: Tensor, h: int) -> Tensor:
    """(kv, m * h, e) to (m, kv * h, e)."""
    return _split(made, (-1, h), 1).transpose(0, 1).flatten(1, 2)


def _split(tokens: Tensor, sizes: Sequence[int], dim: int = 1) -> Tensor:
    """Split dimension `dim` in two of `sizes`."""
    return tokens.reshape(*tokens.shape[:dim], *sizes, *tokens.shape[dim + 1 :])
