"""Baselines that train the network's own tensors: all of them, or its biases alone.

BitFit: Ben Zaken, Goldberg & Ravfogel, BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked
Language-models, ACL 2022, https://aclanthology.org/2022.acl-short.1. Every bias of the network is trained, nothing
else. (PEFT 0.21 has no BitFit.)

The frozen tensors are left alone: float32 copies are trained, and stand in their places inside the block.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import torch
from torch import Tensor, nn

from softprompt.errors import BadInput
from softprompt.methods.baselines.network import BaselineOptions, check_fit, put_back
from softprompt.methods.embedding import SoftEmbedding
from softprompt.methods.folded import AdapterTensors
from softprompt.methods.method import Method, Paper, register_method
from softprompt.methods.options import Rate
from softprompt.methods.soft_prompt import HasModel


class WeightOptions(BaselineOptions):
    """Tensors of the network that are trained."""

    needs_float32: ClassVar[bool] = True
    length: ClassVar[int] = 0  # type: ignore[misc]  # not an option here: there are no rows
    only: ClassVar[str] = ""
    """How the names of those that are trained end."""

    def start(self, model: nn.Module, seed: int) -> AdapterTensors:
        found = self._chosen(model)
        if not found:
            raise BadInput(
                f"{type(model).__name__} has no tensor whose name ends in {self.only!r} (Llama and T5 have no biases; "
                "GPT-2 and BART do). Train full, or peft:lora."
            )
        return AdapterTensors({name: tensor.detach().float().clone() for name, tensor in found.items()})

    @contextmanager
    def inside(self, host: HasModel, tensors: dict[str, nn.Parameter]) -> Iterator[None]:
        found = self._chosen(host.model)
        check_fit(tensors, found, self.group)
        trained: dict[int, nn.Parameter] = {id(frozen): tensors[name] for name, frozen in found.items()}
        with put_back(host.model), host.unfused():
            # In every module: a tensor may stand in several places (T5's embeddings, tied heads). torch 2.13.0: a
            # module computes with what `_parameters` holds; without this the frozen tensors would stay there.
            for module in host.model.modules():
                for name, parameter in module._parameters.items():
                    if id(parameter) in trained:
                        module._parameters[name] = trained[id(parameter)]
            yield

    def _chosen(self, model: nn.Module) -> dict[str, Tensor]:
        """Find the network's tensors that are trained, named as transformers names them."""
        found: dict[str, Tensor] = {}
        embeddings = [name for name, module in model.named_modules() if isinstance(module, SoftEmbedding)]
        for name, tensor in model.named_parameters():
            for embedding in embeddings:
                name = name.replace(f"{embedding}.table.", f"{embedding}.")
            if name.endswith(self.only) and tensor.is_floating_point():
                found[name] = tensor
        for name, chosen in found.items():
            if chosen.dtype is not torch.float32:
                raise BadInput(
                    f"{name} is {str(chosen.dtype).removeprefix('torch.')}; a network whose own tensors are trained "
                    "must be in float32. Give --dtype float32, or train peft:lora."
                )
        return found


class FullOptions(WeightOptions):
    """Every tensor of the network."""

    group = "network"


class BitfitOptions(WeightOptions):
    """Every bias of the network."""

    group = "bias"
    only = "bias"


register_method(
    Method(
        name="bitfit",
        title="BitFit (baseline)",
        prompt=BitfitOptions,
        paper=Paper(
            authors="Ben Zaken, Goldberg & Ravfogel",
            title="BitFit: Simple Parameter-efficient Fine-tuning",
            venue="ACL",
            year=2022,
            url="https://aclanthology.org/2022.acl-short.1",
        ),
        rates={"bias": Rate(0.001, scaled=False)},
    )
)
register_method(
    Method(
        name="full",
        title="Full fine-tuning (baseline)",
        prompt=FullOptions,
        paper=Paper(
            authors="Devlin et al.",
            title="BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding",
            venue="NAACL",
            year=2019,
            url="https://aclanthology.org/N19-1423",
        ),
        rates={"network": Rate(0.0001, scaled=False)},
    )
)
