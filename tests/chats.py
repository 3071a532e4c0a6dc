"""Chat templates of three kinds, and a tokenizer of bytes that reads them."""

from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

CHATML = """{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system
Be kind {and} brief.<|im_end|>
{% endif %}<|im_start|>{{ message['role'] }}
{{ message['content'] }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
LLAMA = """{{ bos_token }}{% for message in messages %}<|head|>{{ message['role'] }}<|/head|>

{{ message['content'] | trim }}<|im_end|>{% endfor %}{% if add_generation_prompt %}<|head|>assistant<|/head|>

{% endif %}"""
GEMMA = """{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' %}{{ raise_exception('no') }}\
{% endif %}<|im_start|>{{ 'model' if message['role'] == 'assistant' else 'user' }}
{{ message['content'] }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>model
{% endif %}"""
TEMPLATES = {"chatml": CHATML, "llama": LLAMA, "gemma": GEMMA}


def chat_tokenizer(template: str, *, bos: bool = True) -> Any:
    """A tokenizer of single bytes; with `bos` it begins every text with <s>."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<s>", "<|im_end|>", "<|im_start|>", "<|head|>", "<|/head|>"]
    made = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(token, special=True) for token in special])
    if bos:
        made.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", made.token_to_id("<s>"))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="<|im_end|>", pad_token="<|im_end|>", chat_template=template
    )
