"""How many positions a model has, read off configs as people have them."""

import pytest
from transformers import (
    BartConfig,
    FalconConfig,
    GPT2Config,
    LlamaConfig,
    LlavaConfig,
    MPNetConfig,
    PreTrainedConfig,
    SwitchTransformersConfig,
    T5Config,
    T5ForConditionalGeneration,
    T5GemmaConfig,
)

from softprompt.backbones import Seq2Seq
from softprompt.backbones.positions import position_limit
from tests import tiny


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        (GPT2Config(n_positions=77), 77),
        (LlamaConfig(max_position_embeddings=4096), 4096),
        (BartConfig(max_position_embeddings=96), 96),
        (MPNetConfig(max_position_embeddings=514), 514),  # relative positions beside absolute ones
        (T5Config(n_positions=512), None),
        (SwitchTransformersConfig(n_positions=512), None),
        (FalconConfig(alibi=True, max_position_embeddings=2048), None),
        (FalconConfig(alibi=False, max_position_embeddings=2048), 2048),
        (LlavaConfig(text_config=LlamaConfig(max_position_embeddings=333)), 333),
        (T5GemmaConfig(encoder={"max_position_embeddings": 222}, decoder={"max_position_embeddings": 111}), 222),
    ],
)
def test_the_limit_is_that_of_the_stack_that_reads_the_source(config: PreTrainedConfig, limit: int | None) -> None:
    assert position_limit(config) == limit


def test_the_length_of_t5s_pretraining_cuts_no_source() -> None:
    shape = {"vocab_size": tiny.V, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    model = T5ForConditionalGeneration(T5Config(**shape, n_positions=512, decoder_start_token_id=tiny.PAD))
    assert Seq2Seq(model, tiny.tokenizer(eos=True), "t5", max_source=512).room(100, 2) == 512
