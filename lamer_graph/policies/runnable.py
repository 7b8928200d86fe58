"""Which models can be sampled in this process, and with which attention: known from the configuration alone.

What must stay true: what is let through computes here what the model's own forward pass computes (a test compares them,
family by family), and what is not is refused before weights are read or a folder is made. The engine masks keys and
values itself: layers of full attention and of sliding windows are its business, states and other caches are not.
"""

from __future__ import annotations

from typing import Any

from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

from lamer_graph.errors import ConfigError

FULL, SLIDING = "full_attention", "sliding_attention"
"""transformers' names of the kinds of layers that can be masked here."""
WINDOW_BY_LAYER = frozenset(
    {"cohere2", "exaone4", "gemma2", "gemma3_text", "gpt_oss", "ministral", "olmo3", "qwen2", "qwen3", "smollm3"}
    | {"vaultgemma"}
)
"""Families with sliding windows whose code takes a mask for each kind of layer."""
WINDOW_EVERYWHERE = frozenset({"ministral3", "mistral", "mixtral", "phi3", "qwen3_moe", "starcoder2"})
"""Families with sliding windows whose layers all have them."""


EAGER = frozenset({"gpt_oss"})
"""Families whose attention transformers writes out only."""


def window_of(config: Any) -> int | None:
    """How many tokens a layer with a sliding window sees, None where no text can be longer. `config`: the text's."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if window is None or (kinds is not None and SLIDING not in kinds):
        return None
    return int(window) if window < config.max_position_embeddings else None


def attention_for(config: Any) -> str:
    """The attention to load a model with: torch's own, unless it would leave something out (caps, sinks)."""
    text = config.get_text_config()
    capped = getattr(text, "attn_logit_softcapping", None) is not None
    return "eager" if capped or text.model_type in EAGER else "sdpa"


def check_config(config: Any) -> None:
    """Raises ConfigError if a model of this (transformers) configuration cannot be run here; nothing else is read."""
    text = config.get_text_config()
    where = "serve it with vLLM (--base-url, or `server` in a run file)"
    if getattr(text, "max_position_embeddings", None) is None:
        raise ConfigError(f"{text.model_type} names no longest text (max_position_embeddings): {where}")
    other = sorted(set(getattr(text, "layer_types", None) or ()) - {FULL, SLIDING})
    made = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if not other and getattr(made, "_is_stateful", False):
        other = ["a state beside keys and values"]
    if getattr(text, "alibi", False) or (attention_for(config) == "sdpa" and not getattr(made, "_supports_sdpa", True)):
        other.append("an attention that takes no mask of ours")
    if other:
        raise ConfigError(
            f"a policy in this process has layers of full or sliding attention; {text.model_type} has "
            f"{', '.join(other)}: {where}"
        )
    if window_of(text) is not None and text.model_type not in WINDOW_BY_LAYER | WINDOW_EVERYWHERE:
        raise ConfigError(f"the sliding window of {text.model_type} was never tried in this process: {where}")
