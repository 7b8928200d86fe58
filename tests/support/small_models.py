"""Models of a few thousand parameters, of any family that transformers knows, with weights that are far from flat."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from lamer_graph.policies.runnable import attention_for

WINDOW = 16
ALTERNATING = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": WINDOW}
SLIDING: dict[str, dict[str, Any]] = {
    "gemma2": {**ALTERNATING, "attn_logit_softcapping": 2.0},
    "gemma3_text": ALTERNATING,
    "gpt_oss": {**ALTERNATING, "num_local_experts": 4},
    "mistral": {"sliding_window": WINDOW},
    "phi3": {"sliding_window": WINDOW},
    "qwen3": {"use_sliding_window": True, **ALTERNATING},
}


def config_of(family: str, **more: Any) -> Any:
    sizes = {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 256}
    tokens = {"eos_token_id": 2, "pad_token_id": 0, "bos_token_id": None, "initializer_range": 0.3}
    return AutoConfig.for_model(family, **sizes | heads | tokens | more)


def model_of(config: Any) -> Any:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention_for(config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2)
    return model
