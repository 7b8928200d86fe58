"""A random Llama of a hundred thousand parameters whose tokenizer has merges for standard prompts: few tokens a prompt.

What must stay true: the same seed gives the same files, and any text can be encoded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chat_tokenizers import trained_tokenizer
from lamer_envs import make
from lamer_graph.trial.prompts import PromptBuilder


def build_tiny_llama(directory: Path, *, seed: int = 0, window: int | None = None) -> Path:
    """Write model and tokenizer into `directory` and return it. `window`: of a Mistral, all of whose layers have it."""
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

    envs = [make("minesweeper:4x4-3"), make("sokoban:6x6-1")]
    texts = [PromptBuilder(env).system["content"] + env.observe(env.reset(0)) for env in envs]
    texts += ["<action>(1, 2)</action> <remark>There is a mine at (2, 3). Do not open it again.</remark>"]
    tokenizer = trained_tokenizer("smollm2", texts, 700)
    common: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
        "dtype": "float32",
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any
        if window is None:
            model = LlamaForCausalLM(LlamaConfig(**common))
        else:
            model = MistralForCausalLM(MistralConfig(**common, sliding_window=window))
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id)
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(directory)
    model.save_pretrained(directory)
    return directory
