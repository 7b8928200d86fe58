"""The tiny policy: a purpose-built tokenizer and a small Qwen3 model, made from nothing.

What must stay true: any text round-trips exactly (every byte has a token of its own; there are no merges), and the
frequent pieces of an environment's compact prompts, above all coordinates, are one token each, so that a prompt costs
some 20 to 45 tokens and an action 4. The pieces are ordinary added tokens, matched longest first, so no custom code is
needed to load the result with transformers or vLLM.

The chat template reads user and assistant messages and skips the system's: a tiny policy has the rules in its weights,
and 150 tokens of byte-level English would cost more than all the rest. See examples/RESULTS.md for what it learns.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

PAD, END, USER, ANSWER = "<|pad|>", "<|end|>", "<|user|>", "<|answer|>"
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'user' -%}" + USER + "{{ message['content'] }}"
    "{%- elif message['role'] == 'assistant' -%}" + ANSWER + "{{ message['content'] }}" + END + "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}" + ANSWER + "{%- endif -%}"
)
CONTEXT = 4096
"""Positions of the model. Real prompts stay below 200 tokens; the rest is room for what users try."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A text that is one token, and what it is made of: pieces that share parts start with similar embeddings.

    `("row 2", "column 3", "mine")` says that the token means a mine in that cell. Without parts an embedding is drawn
    at random, as everywhere else.
    """

    text: str
    parts: tuple[str, ...] = ()


def spaced(text: str, *parts: str, before: Sequence[str] = ("", " ")) -> list[Piece]:
    """The piece as it stands at the beginning and within a line: a separator in the token costs nothing."""
    return [Piece(separator + text, parts) for separator in before]


COMMON_PIECES = [
    *(Piece(tag) for tag in ("<action>", "</action>", "<remark>", "</remark>")),
    Piece("Memory"),
    *(Piece(f"{line}Episode {n}", ("episode", f"episode {n}")) for n in range(1, 10) for line in ("", "\n")),
    *(Piece(f"\n{word}") for word in ("Note", "Tried", "Other", "Act", "Remark")),
    *(Piece(text) for text in ("; ", ", ", " invalid", "invalid")),
]
"""What compact prompts of every environment share."""


def build_tokenizer(pieces: Iterable[Piece]) -> PreTrainedTokenizerFast:
    """Byte-level tokenizer with the common pieces and these as single tokens.

    Raises ValueError for a piece that is empty or not ASCII (its bytes would not decode to itself).
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    make: Any = PreTrainedTokenizerFast
    texts = list(dict.fromkeys(piece.text for piece in [*COMMON_PIECES, *pieces]))
    for text in texts:
        if not text or not text.isascii():
            raise ValueError(f"a piece must be non-empty ASCII text, not {text!r}")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in (PAD, END, USER, ANSWER)])
    core.add_tokens([AddedToken(text, special=False, normalized=False) for text in texts if len(text) > 1])
    tokenizer: PreTrainedTokenizerFast = make(
        tokenizer_object=core,
        eos_token=END,
        pad_token=PAD,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_model(
    tokenizer: PreTrainedTokenizerFast,
    pieces: Iterable[Piece],
    *,
    seed: int = 0,
    hidden: int = 128,
    layers: int = 3,
    heads: int = 4,
    feed_forward: int = 384,
    copying: float = 0.0,
    spread: float = 0.02,
) -> Qwen3ForCausalLM:
    """An untrained float32 Qwen3 with tied embeddings, deterministic for a seed.

    `copying` > 0 starts every attention layer near "look at tokens like mine and pass them on": queries equal keys,
    and values times outputs are `copying` times the identity (after Trockman and Kolter, arXiv 2305.09828, who found
    this shape in trained models). Tasks whose answers are words of the prompt are then learned from far fewer rows.

    `spread` is the standard deviation of embeddings at the start. They are the output's weights too: at 0.02 a token
    that was found in the prompt has to grow its embedding before it can be answered with any confidence.

    A piece's embedding starts as the sum of its parts' vectors, so that `(1, 2)`, `(1, 2)=3` and `mine at (1, 2)` are
    known to concern one cell, and cells of a row to share it, before any training.
    """
    import torch
    from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=feed_forward,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=hidden // heads,
        max_position_embeddings=CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        make: Any = Qwen3ForCausalLM
        model: Qwen3ForCausalLM = make(config)
        if copying > 0:
            _start_copying(model, copying)
        embeddings: Any = model.get_input_embeddings()
        weight: torch.Tensor = embeddings.weight
        if spread != config.initializer_range:
            with torch.no_grad():
                weight *= spread / config.initializer_range
        vectors: dict[str, torch.Tensor] = {}
        for piece in [*COMMON_PIECES, *pieces]:
            if not piece.parts:
                continue
            token = tokenizer.convert_tokens_to_ids(piece.text)
            with torch.no_grad():
                for part in piece.parts:
                    if part not in vectors:
                        vectors[part] = torch.randn(hidden) * spread
                    weight[token] += vectors[part]
    defaults: Any = GenerationConfig
    model.generation_config = defaults(
        do_sample=True, temperature=1.0, top_p=1.0, top_k=0, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return model


def _start_copying(model: Qwen3ForCausalLM, strength: float) -> None:
    import torch

    layers: Any = model.model.layers
    with torch.no_grad():
        for layer in layers:
            attention = layer.self_attn
            attention.q_proj.weight.copy_(attention.k_proj.weight)
            turned = torch.empty_like(attention.v_proj.weight)
            torch.nn.init.orthogonal_(turned)
            attention.v_proj.weight.copy_(turned * strength**0.5)
            attention.o_proj.weight.copy_(turned.T * strength**0.5)
