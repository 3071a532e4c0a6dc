"""A T5 of flan-t5-small's shape: the folder that SOFTPROMPT_T5 names, or random weights, made once in the cache.

Also random weights of T5 v1.1's larger shapes.
"""

import os
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from softprompt.backbones.bundled import cache_folder
from softprompt.tasks.registry import get_task


def t5_folder() -> str:
    """Random weights are as fast as trained ones; their losses mean nothing."""
    named = os.environ.get("SOFTPROMPT_T5")
    if named:
        return named
    folder = cache_folder() / "bench-t5-small-random"
    if not (folder / "config.json").is_file():
        make_t5(folder)
    return str(folder)


SHAPES = {
    "small": {"d_model": 512, "d_ff": 1024, "num_layers": 8, "num_heads": 6},
    "base": {"d_model": 768, "d_ff": 2048, "num_layers": 12, "num_heads": 12},
    "large": {"d_model": 1024, "d_ff": 2816, "num_layers": 24, "num_heads": 16},
}
"""T5 v1.1 (google/t5-v1_1-*, config.json)."""


def make_t5(folder: Path, size: str = "small") -> None:
    """Write a T5 with random weights and a tokenizer of the shipped messages."""
    words = Tokenizer(models.BPE(unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=32000, special_tokens=["<pad>", "</s>", "<unk>"])
    words.train_from_iterator((example.source for example in get_task("support").examples["train"]), trainer)
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    made = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=32128, d_kv=64, decoder_start_token_id=0, feed_forward_proj="gated-gelu",
        tie_word_embeddings=False, pad_token_id=0, eos_token_id=1, **SHAPES[size],
    )  # fmt: skip
    made.save_pretrained(folder)
    T5ForConditionalGeneration(config).save_pretrained(folder)
