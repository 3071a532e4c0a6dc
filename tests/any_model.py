"""Make a tiny random model of any type that transformers knows, from its default config made small."""

from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto import modeling_auto

from tests import tiny

SMALL: dict[str, Any] = {
    "vocab_size": tiny.V, "src_vocab_size": tiny.V, "tgt_vocab_size": tiny.V, "encoder_vocab_size": tiny.V,
    "decoder_vocab_size": tiny.V, "vocab_size_per_layer_input": tiny.V, "vocab_size_or_config_json_file": tiny.V,
    "hidden_size": 16, "d_model": 16, "n_embd": 16, "dim": 16, "embedding_size": 16, "emb_dim": 16, "rescale_every": 0,
    "attention_hidden_size": 16, "true_hidden_size": 16, "intra_bottleneck_size": 16, "bottleneck_size": 16,
    "intermediate_size": 32, "ffn_dim": 32, "d_ff": 32, "n_inner": 32, "d_inner": 32, "ffn_hidden_size": 32,
    "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "hidden_dim": 32, "moe_intermediate_size": 16, "lru_width": 16,
    "shared_expert_intermediate_size": 16, "shared_intermediate_size": 16, "expert_ffn_hidden_size": 16,
    "num_hidden_layers": 2, "num_layers": 2, "n_layer": 2, "n_layers": 2, "encoder_layers": 2, "decoder_layers": 2,
    "num_encoder_layers": 2, "num_decoder_layers": 2, "num_blocks": 2,
    "num_attention_heads": 2, "n_head": 2, "n_heads": 2, "num_heads": 2, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "num_encoder_attention_heads": 2, "num_decoder_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "d_kv": 8, "kv_channels": 8, "rotary_dim": 4,
    "max_position_embeddings": 96, "n_positions": 96, "n_ctx": 96, "context_length": 96, "max_sequence_length": 96,
    "max_encoder_position_embeddings": 96, "max_decoder_position_embeddings": 96, "max_seq_len": 96,
    "sliding_window": 8, "attention_window": 8, "attention_chunk_size": 8, "local_attention": 8, "block_size": 8,
    "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "qk_head_dim": 8,
    "v_head_dim": 8, "n_routed_experts": 4, "num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2,
    "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "num_dense_layers": 1, "index_topk": 8,
    "index_n_heads": 2, "index_head_dim": 8, "state_size": 4, "mamba_d_state": 4, "mamba_d_head": 8, "mamba_n_heads": 4,
    "mamba_n_groups": 1, "mamba_expand": 2, "conv_dim": 16, "time_step_rank": 4, "hidden_size_per_layer_input": 8,
    "linear_num_value_heads": 2, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "pad_token_id": tiny.PAD, "bos_token_id": tiny.EOS, "eos_token_id": tiny.EOS, "decoder_start_token_id": tiny.PAD,
    "scale_embedding": True,
    "forced_eos_token_id": None, "forced_bos_token_id": None, "cls_token_id": tiny.EOS, "sep_token_id": tiny.EOS,
}  # fmt: skip
"""What is set wherever a config has it."""

_HALF_LINEAR = {"layer_types": ["linear_attention", "full_attention"], "full_attention_interval": 2}
_LATENT = {"head_dim": 4, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "num_key_value_heads": 2}
OTHERWISE: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "codegen": {"n_head": 4, "num_attention_heads": 4, "n_embd": 16, "rotary_dim": 2},
    "dbrx": {"n_heads": 2, "attn_config": {"kv_n_heads": 1, "rope_theta": 1e4}, "ffn_config": {"ffn_hidden_size": 32}},
    "deepseek_v2": _LATENT,
    "deepseek_v3": _LATENT,
    "diffllama": {"num_key_value_heads": 2},
    "falcon": {},
    "falcon_h1": {"mamba_d_ssm": 16, "mamba_n_heads": 4, "mamba_d_head": 4},
    "funnel": {"block_sizes": [1, 1]},
    "gemma3n_text": {
        "num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2, "num_kv_shared_layers": 2,
        "intermediate_size": 32, "activation_sparsity_pattern": [0.0] * 4, "laurel_rank": 4,
    },
    "gemma4_text": {
        "layer_types": ["sliding_attention", "full_attention"], "num_kv_shared_layers": 0, "head_dim": 8,
        "global_head_dim": 8, "num_key_value_heads": 1,
    },
    "glm4_moe_lite": _LATENT,
    "gpt_neo": {"num_layers": 2, "attention_types": [[["global", "local"], 1]], "window_size": 8},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "lfm3": {"layer_types": ["conv", "full_attention"]},
    "longcat_flash": _LATENT,
    "mamba2": {"num_heads": 4, "head_dim": 8, "expand": 2, "n_groups": 1},
    "minicpm3": _LATENT,
    "qwen3_5_text": _HALF_LINEAR,
    "qwen3_5_moe_text": _HALF_LINEAR,
    "qwen3_next": _HALF_LINEAR,
    "recurrent_gemma": {"num_hidden_layers": 3, "block_types": ["recurrent", "recurrent", "attention"]},
    "reformer": {
        "axial_pos_embds_dim": [8, 8], "axial_pos_shape": [8, 12], "attn_layers": ["local", "lsh"],
        "attention_head_size": 8, "feed_forward_size": 32, "num_buckets": 2,
    },
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "youtu": _LATENT,
}  # fmt: skip
"""What a type needs beside that, or has to have otherwise."""

WITHOUT: dict[str, tuple[str, ...]] = {
    "falcon": ("head_dim",),
    "prophetnet": ("num_hidden_layers",),
    "funnel": ("num_hidden_layers",),
    "xlnet": ("max_position_embeddings",),
    "xlstm": ("qk_head_dim", "v_head_dim"),
    "gpt_neo": ("num_hidden_layers",),
}
"""What a type does not let one set."""

KINDS = {
    "causal": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "seq2seq": modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    "masked": modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
}
"""Types of models by the kind of backbone that they can be."""


def small_config(kind: str, model_type: str) -> PreTrainedConfig:
    """Make the default config of a type small."""
    default = AutoConfig.for_model(model_type)
    given = {**_shrunk(default), **OTHERWISE.get(model_type, {})}
    if kind == "causal" and hasattr(default, "is_decoder"):
        given["is_decoder"] = True
    config = type(default)(**given)
    if kind == "seq2seq":
        config.decoder_start_token_id = tiny.EOS if model_type == "t5gemma" else tiny.PAD
    if model_type == "encoder-decoder":
        config.decoder.update({"add_cross_attention": True, "is_decoder": True})
    config.architectures = [_class_name(kind, model_type)]
    return config


def small_model(kind: str, model_type: str) -> nn.Module:
    """Make a random model of a type, with weights large enough for its answers to depend on its input."""
    import transformers

    torch.manual_seed(0)
    made = getattr(transformers, _class_name(kind, model_type))(small_config(kind, model_type)).eval()
    with torch.no_grad():
        for tensor in made.parameters():
            if tensor.ndim > 1:
                tensor.normal_(0, 0.3)
    return made


def _class_name(kind: str, model_type: str) -> str:
    name = KINDS[kind][model_type]
    return name if isinstance(name, str) else name[0]


def _has(config: PreTrainedConfig, name: str) -> bool:
    return name in config.to_dict() or name in type(config).attribute_map or hasattr(type(config), name)


def _shrunk(config: PreTrainedConfig) -> dict[str, Any]:
    without = WITHOUT.get(config.model_type, ())
    given = {name: value for name, value in SMALL.items() if name not in without and _has(config, name)}
    for name in config.sub_configs:
        inner = getattr(config, name, None)
        if isinstance(inner, PreTrainedConfig):
            given[name] = {**_shrunk(inner), **OTHERWISE.get(inner.model_type, {}), "model_type": inner.model_type}
    return given
