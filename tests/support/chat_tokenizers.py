"""Three small byte-level tokenizers with the control tokens, and the chat templates in brief, of three families."""

from __future__ import annotations

from typing import Any

CHATML = (
    "{%- for m in messages -%}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|im_start|>assistant\n{%- if enable_thinking is defined and not enable_thinking "
    "-%}<think>\n\n</think>\n\n{%- endif -%}{%- endif -%}"
)
LLAMA = (
    "<|begin_of_text|>{%- for m in messages -%}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|start_header_id|>assistant<|end_header_id|>\n\n{%- endif -%}"
)
GEMMA = (
    "<bos>{%- for m in messages -%}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else 'user' }}\n"
    "{{ m['content'] | trim }}<end_of_turn>\n{%- endfor -%}"
    "{%- if add_generation_prompt -%}<start_of_turn>model\n{%- endif -%}"
)

FAMILIES: dict[str, tuple[str, list[str], list[str], str]] = {
    "qwen": (
        CHATML,
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|vision_start|>", "<|image_pad|>"],
        ["<think>", "</think>", "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|file_sep|>"],
        "<|im_end|>",
    ),
    "llama": (
        LLAMA,
        [
            *("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
            *("<|eom_id|>", "<|python_tag|>"),
            *(f"<|reserved_special_token_{i}|>" for i in range(20)),
        ],
        [],
        "<|eot_id|>",
    ),
    "gemma": (
        GEMMA,
        ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>", "[multimodal]", "<unused0>"],
        ["<h1>", "<table>", "\n\n"],
        "<end_of_turn>",
    ),
}
"""Family -> chat template, special tokens, other added tokens, end of an answer."""


def chat_tokenizer(family: str) -> Any:
    """A transformers tokenizer of one of the FAMILIES: bytes, and the family's added tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    template, special, others, end = FAMILIES[family]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    core.add_tokens([AddedToken(text, special=False, normalized=False) for text in others])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token=end)
    tokenizer.chat_template = template
    return tokenizer
