"""Tiny random models and tokenizers, made in memory: nothing is downloaded."""

from functools import cache
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    RobertaConfig,
    RobertaForMaskedLM,
    T5Config,
    T5ForConditionalGeneration,
)

from softprompt.backbones import Backbone, Causal, Masked, Seq2Seq
from softprompt.methods.registry import get_method

V, D = 64, 16
PAD, EOS, UNK = 0, 1, 2
WORDS = (
    "the parcel is late my invoice wrong where how do i log in good bad really not very yes no maybe team : text "
    "message label a b c d e f g h hello world red green blue yes sir sure thing"
)


def _t5() -> nn.Module:
    config = T5Config(
        vocab_size=V, d_model=D, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=PAD,
        pad_token_id=PAD, eos_token_id=EOS, dropout_rate=0.1,
    )  # fmt: skip
    return T5ForConditionalGeneration(config)


def _bart() -> nn.Module:
    config = BartConfig(
        vocab_size=V, d_model=D, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=96,
        scale_embedding=True, pad_token_id=PAD, bos_token_id=EOS, eos_token_id=EOS, decoder_start_token_id=EOS,
        forced_eos_token_id=None,
    )  # fmt: skip
    return BartForConditionalGeneration(config)


def _gpt2() -> nn.Module:
    config = GPT2Config(
        vocab_size=V,
        n_embd=D,
        n_layer=2,
        n_head=2,
        n_positions=96,
        bos_token_id=EOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    return GPT2LMHeadModel(config)


def _llama() -> nn.Module:
    config = LlamaConfig(
        vocab_size=V, hidden_size=D, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=96, bos_token_id=EOS, eos_token_id=EOS, pad_token_id=PAD,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def _gemma3() -> nn.Module:
    config = Gemma3TextConfig(
        vocab_size=V, hidden_size=D, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, max_position_embeddings=96, sliding_window=8,
        layer_types=["sliding_attention", "full_attention"], bos_token_id=EOS, eos_token_id=EOS, pad_token_id=PAD,
    )  # fmt: skip
    return Gemma3ForCausalLM(config)


# Decoders that differ where packing could go wrong: norms on heads, a window in all layers, learned or partly
# rotated positions; then those that cannot be packed: ALiBi, a recurrence, capped scores.
_SMALL: dict[str, Any] = {
    "vocab_size": V, "hidden_size": D, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 96, "bos_token_id": EOS, "eos_token_id": EOS, "pad_token_id": PAD,
}  # fmt: skip


def _qwen3() -> nn.Module:
    return Qwen3ForCausalLM(Qwen3Config(**_SMALL, num_key_value_heads=1, head_dim=8))


def _mistral() -> nn.Module:
    return MistralForCausalLM(MistralConfig(**_SMALL, num_key_value_heads=2, sliding_window=6))


def _neox() -> nn.Module:
    return GPTNeoXForCausalLM(GPTNeoXConfig(**_SMALL))


def _gemma2() -> nn.Module:
    return Gemma2ForCausalLM(Gemma2Config(**_SMALL, num_key_value_heads=1, head_dim=8, sliding_window=8))


def _bloom() -> nn.Module:
    return BloomForCausalLM(BloomConfig(vocab_size=V, hidden_size=D, n_layer=2, n_head=2, pad_token_id=PAD))


def _mamba() -> nn.Module:
    return MambaForCausalLM(MambaConfig(vocab_size=V, hidden_size=D, num_hidden_layers=2, state_size=4))


# Encoders that fill masks: learned positions, the same from the padding's index on, and rotated ones with a window.


def _bert() -> nn.Module:
    return BertForMaskedLM(BertConfig(**_SMALL))


def _roberta() -> nn.Module:
    return RobertaForMaskedLM(RobertaConfig(**_SMALL))


def _modernbert() -> nn.Module:
    config = ModernBertConfig(
        **_SMALL | {"num_hidden_layers": 3}, local_attention=6, global_attn_every_n_layers=3, cls_token_id=EOS,
        sep_token_id=EOS,
    )  # fmt: skip
    return ModernBertForMaskedLM(config)


MODELS = {"t5": _t5, "bart": _bart, "gpt2": _gpt2, "llama": _llama, "gemma3": _gemma3}
DECODERS = {"qwen3": _qwen3, "mistral": _mistral, "neox": _neox, "gemma2": _gemma2, "bloom": _bloom, "mamba": _mamba}
MASKED = {"bert": _bert, "roberta": _roberta, "modernbert": _modernbert}


def small(method: str, **more: Any) -> dict[str, Any]:
    """Options of a small prompt of `method`, which may be two combined, but for its length (3 or more); and `more`."""
    return {**get_method(method).small, **more}


def model(name: str) -> nn.Module:
    """A random model whose weights are large enough for its answers to depend on its input."""
    torch.manual_seed(0)
    made = (MODELS | DECODERS | MASKED)[name]().eval()
    with torch.no_grad():
        for tensor in made.parameters():
            if tensor.ndim > 1:
                tensor.normal_(0, 0.3)
    return made


@cache
def tokenizer(
    *, bos: bool = False, eos: bool = False, pad_is_eos: bool = False, mask: bool = False, more: str = ""
) -> Any:
    """Words split at blanks, those of `more` too; `eos` puts </s> at the end of every text, `bos` at its start.

    With `mask` there is a mask token that takes the blank before it, as RoBERTa's.
    """
    words = list(dict.fromkeys(f"{WORDS} {'. ,' if mask else ''} {more}".split()))
    vocabulary = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", *words])}
    assert len(vocabulary) <= V
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    if bos or eos:
        single = " ".join([*["</s>"] * bos, "$A", *["</s>"] * eos])
        made.post_processor = processors.TemplateProcessing(single=single, special_tokens=[("</s>", EOS)])
    more_tokens = {"mask_token": AddedToken("<mask>", lstrip=True)} if mask else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", eos_token="</s>", pad_token="</s>" if pad_is_eos else "<pad>",
        **more_tokens,
    )  # fmt: skip


def backbone(name: str, *, bos: bool = False, **settings: Any) -> Backbone:
    if name in ("t5", "bart"):
        return Seq2Seq(model(name), tokenizer(bos=bos, eos=True), f"tiny-{name}", **settings)
    if name in MASKED:
        return Masked(model(name), tokenizer(bos=True, eos=True, mask=True), f"tiny-{name}", **settings)
    return Causal(model(name), tokenizer(bos=bos), f"tiny-{name}", **settings)


def save_tiny(name: str, folder: Any, more: str = "") -> str:
    """Write a tiny model and its tokenizer (with the words `more`) as transformers does; returns the folder as text."""
    made = model(name)
    made.save_pretrained(folder)  # type: ignore[operator]
    masked = name in MASKED
    tokenizer(bos=masked, eos=masked or name in ("t5", "bart"), mask=masked, more=more).save_pretrained(folder)
    return str(folder)
