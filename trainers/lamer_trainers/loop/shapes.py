"""What size a policy's model has, from its configuration alone.

What must stay true: counts are those of the weights that transformers and PEFT make, without norms (tests compare).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lamer_trainers.errors import TrainingConfigError


@dataclass(frozen=True)
class Shape:
    """What size a decoder-only transformer with a gated feed-forward has."""

    layers: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool

    @property
    def parameters(self) -> int:
        """Weights, without norms."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        block = attention + 3 * self.hidden * self.ffn
        return self.vocabulary * self.hidden * (1 if self.tied else 2) + self.layers * block

    @property
    def body(self) -> int:
        """Weights without an untied head, which a critic leaves out."""
        return self.parameters - (0 if self.tied else self.vocabulary * self.hidden)

    def adapter(self, rank: int, modules: Sequence[str] | None = None) -> int:
        """Weights of a LoRA of that rank on these linear layers, by the last part of their names (None: on all but the
        head)."""
        h, q, kv = self.hidden, self.heads * self.head_dim, self.kv_heads * self.head_dim
        sides = {"q_proj": h + q, "k_proj": h + kv, "v_proj": h + kv, "o_proj": q + h}
        sides |= dict.fromkeys(("gate_proj", "up_proj", "down_proj"), h + self.ffn)
        chosen = set(sides) if modules is None else {name.rpartition(".")[2] for name in modules}
        return self.layers * rank * sum(side for name, side in sides.items() if name in chosen)

    @property
    def head(self) -> int:
        """Weights of the head, which only the tokens of answers go through."""
        return self.vocabulary * self.hidden

    @property
    def blocks(self) -> int:
        """Weights that every token goes through."""
        return self.parameters - self.head * (1 if self.tied else 2)

    @property
    def cache_bytes(self) -> int:
        """Of one token in the key-value cache, in 16 bits."""
        return 2 * 2 * self.layers * self.kv_heads * self.head_dim


KNOWN = {
    # From the models' public configuration files.
    "Qwen/Qwen3-4B": Shape(36, 2560, 9728, 32, 8, 128, 151_936, tied=True),
    "meta-llama/Llama-3.1-8B-Instruct": Shape(32, 4096, 14_336, 32, 8, 128, 128_256, tied=False),
}


def shape_of(policy: str) -> Shape:
    """The size of a model folder, or of one of the known models. Raises TrainingConfigError."""
    path = Path(policy) / "config.json"
    try:
        config: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        config = config.get("text_config", config)
    except (OSError, ValueError):
        if policy in KNOWN:
            return KNOWN[policy]
        raise TrainingConfigError(
            f"policy '{policy}' is neither a folder with a config.json nor one of {', '.join(KNOWN)}: download it first"
        ) from None
    try:
        heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
        return Shape(
            layers=int(config["num_hidden_layers"]),
            hidden=hidden,
            ffn=int(config["intermediate_size"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads", heads)),
            head_dim=int(config.get("head_dim") or hidden // heads),
            vocabulary=int(config["vocab_size"]),
            tied=bool(config.get("tie_word_embeddings", True)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise TrainingConfigError(f"{path} is not of a decoder-only transformer known here: it lacks {error}") from None
