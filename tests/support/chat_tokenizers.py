"""Small byte-level tokenizers with the control tokens, and the chat templates in brief, of three families.

`trained_tokenizer` has merges besides, learned from given texts, and cuts texts first as the named models' do: Qwen3
and Llama 3 by their pattern (one digit, up to three digits a piece), SmolLM2 by digits and then by GPT-2's pattern.
What is emulated is the cutting and the template; vocabularies are small and their own.
"""

from __future__ import annotations

from collections.abc import Sequence
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


PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
CUTTING = {"qwen3": ("qwen", r"\p{N}"), "llama3": ("llama", r"\p{N}{1,3}"), "smollm2": ("qwen", None)}
"""Model -> family of its template, and what it takes of digits at a time (None: GPT-2's pattern after all digits)."""


def trained_tokenizer(model: str, texts: Sequence[str], size: int = 3_000) -> Any:
    """A transformers tokenizer that cuts as one of CUTTING does, with merges learned from `texts`."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

    family, digits = CUTTING[model]
    core = Tokenizer(models.BPE())
    if digits is None:
        first: Any = pre_tokenizers.Digits(individual_digits=True)
    else:
        first = pre_tokenizers.Split(Regex(PATTERN.format(digits=digits)), "isolated")
    rest = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=digits is None)
    core.pre_tokenizer = pre_tokenizers.Sequence([first, rest])
    if model == "qwen3":
        core.normalizer = normalizers.NFC()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    )
    return _finished(core, family)


def chat_tokenizer(family: str) -> Any:
    """A transformers tokenizer of one of the FAMILIES: bytes, and the family's added tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return _finished(core, family)


def _finished(core: Any, family: str) -> Any:
    from tokenizers import AddedToken, decoders
    from transformers import PreTrainedTokenizerFast

    template, special, others, end = FAMILIES[family]
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    core.add_tokens([AddedToken(text, special=False, normalized=False) for text in others])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token=end)
    tokenizer.chat_template = template
    return tokenizer
