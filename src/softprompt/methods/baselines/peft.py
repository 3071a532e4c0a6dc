"""Baselines that HF PEFT implements. https://github.com/huggingface/peft (0.21)

LoRA      Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022, https://arxiv.org/abs/2106.09685:
          W x becomes W x + (alpha / rank) B A x, with A (r,in), B (out,r); B starts at 0.
(IA)3     Liu et al., Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning,
          NeurIPS 2022, https://arxiv.org/abs/2205.05638: keys, values and feed-forward states times learned vectors.
prefix    Li & Liang, Prefix-Tuning, ACL 2021, https://aclanthology.org/2021.acl-long.353: l learned keys and values in
          front of those of every layer, without the paper's network that makes them. That is P-Tuning v2's deep prompt
          (Liu et al., ACL 2022, https://aclanthology.org/2022.acl-short.8), for which PEFT has no method of its own.

PEFT puts its modules into the network and does nothing else: softprompt trains their parameters. Names and shapes of
the tensors are those of PEFT's own file, so the file is what `PeftModel.from_pretrained` reads.
"""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from softprompt.errors import BadInput
from softprompt.methods.baselines.network import BaselineOptions, check_fit, put_back
from softprompt.methods.folded import AdapterTensors
from softprompt.methods.method import Method, Paper, register_method
from softprompt.methods.options import Rate
from softprompt.methods.soft_prompt import HasModel
from softprompt.runtime.versions import warn_of_newer

Untyped: TypeAlias = Any
"""A model of transformers, or a model or config of PEFT: mypy reads neither library, and PEFT is optional."""

ROWS = "prompt_embeddings"


class PeftOptions(BaselineOptions):
    """Options of an adapter that PEFT implements."""

    packages = ("peft",)

    def config(self, model: Untyped) -> Untyped:
        """Make PEFT's configuration of it, for a transformers model."""
        raise NotImplementedError

    def start(self, model: nn.Module, seed: int) -> AdapterTensors:
        with put_back(model), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            adapted = self.adapted(model)
            tensors = {name: tensor.detach().clone() for name, tensor in self.trained(adapted).items()}
            return AdapterTensors(tensors, _as_json(adapted.peft_config["default"]))

    def adapted(self, model: nn.Module) -> Untyped:
        """Put PEFT's modules into `model`; returns the PeftModel. Raises BadInput for what PEFT refuses."""
        from peft import get_peft_model

        warn_of_newer("peft")

        # What it draws is not used, so it must not be missing elsewhere; what it warns about is seen to here.
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return get_peft_model(model, self.config(model))
            except ValueError as error:
                raise BadInput(f"PEFT cannot put this into {type(model).__name__}: {error}") from None

    def trained(self, adapted: Untyped) -> dict[str, Tensor]:
        """Find the parameters of PEFT's modules, by their names in PEFT's file."""
        found = {name: tensor for name, tensor in adapted.named_parameters() if tensor.requires_grad}
        return {name.replace(".default", "", 1): tensor for name, tensor in found.items()}

    @contextmanager
    def inside(self, host: HasModel, tensors: dict[str, nn.Parameter]) -> Iterator[None]:
        with put_back(host.model):
            adapted = self.adapted(host.model)
            self.replace(adapted, tensors)
            yield

    def replace(self, adapted: Untyped, tensors: dict[str, nn.Parameter]) -> None:
        """Let PEFT's modules compute with `tensors`."""
        check_fit(tensors, self.trained(adapted), self.group)
        # torch 2.13.0: a module computes with what `_parameters` holds; else PEFT's own tensors would be trained.
        for module_name, module in adapted.named_modules():
            for own in module._parameters:
                name = f"{module_name}.{own}".replace(".default", "", 1)
                if name in tensors:
                    module._parameters[own] = tensors[name]


class TargetOptions(PeftOptions):
    """An adapter that sits at some of the network's linear layers."""

    length: ClassVar[int] = 0  # type: ignore[misc]  # not an option here: there are no rows
    group = "adapter"
    can_pack = True

    targets: tuple[str, ...] | Literal["all-linear"] | None = Field(
        None, description="names of the layers, with commas between, or all-linear; null: PEFT's for this architecture"
    )

    @field_validator("targets", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str) and value != "all-linear":
            return tuple(name.strip() for name in value.split(",") if name.strip())
        return value

    def adapted(self, model: nn.Module) -> Untyped:
        made = super().adapted(model)
        head = model.get_output_embeddings()  # type: ignore[operator]
        if hasattr(head, "base_layer"):
            raise BadInput(
                f"targets={','.join(self.targets or ())}: the output layer is left as it is here, because its loss is "
                "computed a piece at a time. Name other layers, or train full."
            )
        return made

    def named(self) -> list[str] | str | None:
        """Return the targets as PEFT takes them."""
        return list(self.targets) if isinstance(self.targets, tuple) else self.targets


class LoraOptions(TargetOptions):
    """The paper's queries and values; rank and alpha are PEFT's usual."""

    of_prompt = ("rank", "alpha", "rslora", "targets")

    rank: int = Field(8, ge=1, description="rank of each layer's change")
    alpha: float = Field(16.0, gt=0, description="the change is scaled by alpha / rank")
    rslora: bool = Field(False, description="scale by alpha / sqrt(rank) instead (rsLoRA)")

    def config(self, model: Untyped) -> Untyped:
        from peft import LoraConfig

        alpha = int(self.alpha) if self.alpha.is_integer() else self.alpha  # PEFT's file has a whole number
        return LoraConfig(
            task_type=_task_type(model),
            r=self.rank,
            lora_alpha=alpha,
            use_rslora=self.rslora,
            target_modules=self.named(),
        )


class Ia3Options(TargetOptions):
    """Keys, values and what enters the second feed-forward layer."""

    of_prompt = ("targets", "feedforward")

    feedforward: tuple[str, ...] | None = Field(
        None, description="layers among the targets whose input, not output, is multiplied; null: PEFT's"
    )

    @field_validator("feedforward", mode="before")
    @classmethod
    def _split_feedforward(cls, value: object) -> object:
        return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value

    def config(self, model: Untyped) -> Untyped:
        from peft import IA3Config

        inputs = list(self.feedforward) if self.feedforward is not None else None
        if self.targets is not None and inputs is None:
            inputs = []
        return IA3Config(
            task_type=_task_type(model), target_modules=self.named(), feedforward_modules=inputs
        )  # fmt: skip


class PrefixOptions(PeftOptions):
    """Keys and values in front of every layer's."""

    of_prompt = ("length", "start_at")
    group = "prefix"

    length: int = Field(20, ge=1, le=4096, description="keys and values of each layer")
    start_at: Literal["zero", "noise"] = Field("zero", description="zero, or PEFT's own N(0, 1), which drowns them")

    def places(self) -> int:
        return self.length

    def config(self, model: Untyped) -> Untyped:
        from peft import PrefixTuningConfig

        if _task_type(model) is None:
            raise BadInput(
                f"peft:prefix stands in the cache of a decoder, and {type(model).__name__} has none. Train peft:lora."
            )
        start = "zero" if self.start_at == "zero" else None
        return PrefixTuningConfig(
            task_type=_task_type(model), num_virtual_tokens=self.length, init_weights=start, **_decoder(model.config)
        )  # fmt: skip

    def trained(self, adapted: Untyped) -> dict[str, Tensor]:
        return {ROWS: adapted.prompt_encoder["default"].embedding.weight}

    def replace(self, adapted: Untyped, tensors: dict[str, nn.Parameter]) -> None:
        check_fit(tensors, self.trained(adapted), self.group)
        adapted.prompt_encoder["default"].embedding.weight = tensors[ROWS]

    @contextmanager
    def inside(self, host: HasModel, tensors: dict[str, nn.Parameter]) -> Iterator[None]:
        model = host.model
        if host.recomputes_layers:
            raise BadInput(
                "peft:prefix stands in the cache of keys and values, which a layer that is computed twice would fill "
                "twice. Leave out --gradient-checkpointing."
            )
        with put_back(model):
            adapted = self.adapted(model)
            self.replace(adapted, tensors)
            if model.config.is_encoder_decoder:  # type: ignore[union-attr]
                # peft 0.21.2 reads the size of the batch off the source, and here the encoder has read that already.
                adapted.forward = lambda **given: model(
                    **given, past_key_values=adapted.get_prompt(len(given["decoder_input_ids"]))
                )
            host.model = adapted
            try:
                yield
            finally:
                host.model = model


def _task_type(model: Untyped) -> str | None:
    """Name what a model does as PEFT does; it has no name for filling masks, and needs none there."""
    if model.config.is_encoder_decoder:
        return "SEQ_2_SEQ_LM"
    return "CAUSAL_LM" if model.can_generate() else None


def _decoder(network: Untyped) -> dict[str, int]:
    """Find the sizes of the decoder's keys and values; PEFT has the encoder's, and heads as wide as d_model allows."""
    if not network.is_encoder_decoder:
        return {}
    heads = getattr(network, "decoder_attention_heads", None) or network.num_heads
    layers = getattr(network, "decoder_layers", None) or network.num_decoder_layers
    size = getattr(network, "d_kv", None) or network.d_model // heads
    return {"num_layers": layers, "num_attention_heads": heads, "token_dim": heads * size}


def _as_json(config: Untyped) -> dict[str, object]:
    """Read adapter_config.json as PEFT writes it."""
    config.inference_mode = True
    with TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        found: dict[str, object] = json.loads((Path(folder) / "adapter_config.json").read_text(encoding="utf-8"))
    return found


register_method(
    Method(
        name="peft:lora",
        title="LoRA (baseline, HF PEFT)",
        prompt=LoraOptions,
        paper=Paper(
            authors="Hu et al.",
            title="LoRA: Low-Rank Adaptation of Large Language Models",
            venue="ICLR",
            year=2022,
            url="https://arxiv.org/abs/2106.09685",
        ),
        rates={"adapter": Rate(0.003, scaled=False)},
    )
)
register_method(
    Method(
        name="peft:ia3",
        title="(IA)3 (baseline, HF PEFT)",
        prompt=Ia3Options,
        paper=Paper(
            authors="Liu et al.",
            title="Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning",
            venue="NeurIPS",
            year=2022,
            url="https://arxiv.org/abs/2205.05638",
        ),
        rates={"adapter": Rate(0.05, scaled=False)},
    )
)
register_method(
    Method(
        name="peft:prefix",
        title="Prefix tuning, P-Tuning v2 (baseline, HF PEFT)",
        prompt=PrefixOptions,
        paper=Paper(
            authors="Li & Liang",
            title="Prefix-Tuning: Optimizing Continuous Prompts for Generation",
            venue="ACL",
            year=2021,
            url="https://aclanthology.org/2021.acl-long.353",
        ),
        rates={"prefix": Rate(0.1, scaled=False)},
    )
)
