"""Forests of tokens for trainer tests: what a node sees, and small random models of several architectures."""

from __future__ import annotations

import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

SHAPE = {
    "vocab_size": 320,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "intermediate_size": 96,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
GPT2_SHAPE = {"vocab_size": 320, "n_positions": 256, "n_embd": 48, "n_layer": 3, "n_head": 4}
NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}


def a_model(kind, **options):
    """The same random model at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        match kind:
            case "llama":
                return LlamaForCausalLM(LlamaConfig(**SHAPE, **options))
            case "qwen3":
                return Qwen3ForCausalLM(Qwen3Config(**SHAPE, tie_word_embeddings=True, **options))
            case "gemma3":
                layers = ["sliding_attention", "sliding_attention", "full_attention"]
                return Gemma3ForCausalLM(Gemma3TextConfig(**SHAPE, layer_types=layers, **options))
            case "gpt2":
                ends = {"bos_token_id": 0, "eos_token_id": 0, "initializer_range": 0.2}
                return GPT2LMHeadModel(GPT2Config(**GPT2_SHAPE, **NO_DROPOUT, **ends, **options))
    raise ValueError(kind)


def dense(tree):
    """Which node sees which, (N, N)."""
    count = len(tree.places)
    seen = torch.zeros((count, count), dtype=torch.bool)
    rows = []
    for group in tree.groups:
        blocks, queries, keys = group.seen.shape
        for block in range(blocks):
            own = group.keys.view(blocks, keys)[block]
            for query in range(queries):
                rows.append((int(group.queries[block * queries + query]), own[group.seen[block, query]]))
    for node, place in enumerate(tree.places.tolist()):
        query, keys = rows[place]
        assert query == node
        seen[node, keys] = True
    return seen
