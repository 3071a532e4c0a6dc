"""Replaced norms and activations give the outputs and gradients of those they replace, or are left alone."""

import pytest
import torch
from torch import nn

from softprompt.backbones.ops.fused import fuse
from tests import tiny
from tests.compare import difference

NORMS = {"llama": 5, "qwen3": 9, "gemma3": 13, "mistral": 5, "t5": 12}  # two layers a stack; T5 has two stacks
CLASSES = {"gpt2": 2, "neox": 0, "bart": 0}
GATES = {"llama": 2, "qwen3": 2, "mistral": 2}


def outputs(model: nn.Module, decoder: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and their gradient with respect to the input embeddings."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 40, (2, 9), generator=draw)
    embeds = model.get_input_embeddings()(ids).detach().requires_grad_()  # type: ignore[operator]
    given = {} if decoder else {"decoder_input_ids": ids[:, :4]}
    logits = model(inputs_embeds=embeds, **given).logits
    weights = torch.randn(logits.shape, generator=draw)
    return logits.detach(), torch.autograd.grad((logits.float() * weights).sum(), embeds)[0]


@pytest.mark.parametrize("family", [*NORMS, *CLASSES])
def test_a_fused_model_gives_the_same_outputs_and_gradients(family: str) -> None:
    model = tiny.model(family).requires_grad_(False)
    for name, weight in model.named_parameters():  # ones would hide a weight that is forgotten
        if weight.ndim == 1:
            weight.data += torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(name))) * 0.2
    before = outputs(model, family not in ("t5", "bart"))
    assert fuse(model) == {**NORMS, **CLASSES}[family] + GATES.get(family, 0)
    after = outputs(model, family not in ("t5", "bart"))
    for found, expected in zip(after, before, strict=True):
        assert difference(found, expected) < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_fused_model_in_half_precision_is_no_further_from_the_truth(dtype: torch.dtype) -> None:
    model = tiny.model("llama").requires_grad_(False)
    truth = outputs(model, True)
    rough = outputs(model.to(dtype), True)
    assert fuse(model) == NORMS["llama"] + GATES["llama"]
    fused = outputs(model, True)
    for found, other, right in zip(fused, rough, truth, strict=True):
        assert found.dtype == other.dtype
        assert difference(found, right) < max(2 * difference(other, right), 1e-3)


class OddRMSNorm(nn.Module):
    """Called an RMS norm, and is something else."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(8)), 1e-6

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return states / states.abs().mean(-1, keepdim=True) * self.weight


def test_a_norm_that_is_something_else_is_left_alone() -> None:
    odd = OddRMSNorm().requires_grad_(False)
    before = odd(torch.arange(8.0))
    assert fuse(odd) == 0
    assert torch.equal(odd(torch.arange(8.0)), before)
