"""Run files that come with the project, by name.

What must stay true: each is a complete run file that `runfile.load_run` accepts. The `-cpu` ones train on two cores
from a shipped warm start; the others carry the paper's hyper-parameters (arXiv 2512.16848) and need a GPU.
The RL baseline of a run is the same run with `rl_baseline` applied.
"""

from __future__ import annotations

from typing import Any

_SMALL: dict[str, Any] = {
    "updates": 90,
    "learning_rate": 5e-4,
    "warmup_updates": 5,
    # A constant rate lost what it had learnt in one of three seeds.
    "schedule": "linear",
    "mini_batches": 4,
    "entropy": 0.01,
    "normalise": "batch",
    "anchor": "episode+observation",
    "old_logprobs": "logged",
    "micro_batch_tokens": 4096,
    "critic_learning_rate": 5e-4,
}
"""What made policies of under a million parameters learn in minutes."""

_CHOICE: dict[str, Any] = {"tasks": 300, "every": 10}
"""Small boards are few: a policy comes to know those it trains on. The best on boards that it never saw is kept."""

_PAPER: dict[str, Any] = {
    "updates": 300,
    "algorithm": "gigpo",
    "gamma_step": 0.95,
    "gamma_traj": 0.6,
    "invalid_penalty": 0.5,
    "learning_rate": 1e-6,
    "clip": 0.2,
    # The paper's mini-batches hold 64 samples; an update brings some 2,000 calls.
    "mini_batches": 32,
    "micro_batch_tokens": 8192,
    "gradient_checkpointing": True,
}


def _board(env: str, turns: int) -> dict[str, Any]:
    """A small policy's collection: short prompts, short answers."""
    return {
        "env": env,
        "tasks": 16,
        "trials": 8,
        "max_episodes": 3,
        "max_turns": turns,
        "contents": "reflection",
        "prompt_style": "compact",
        "max_tokens": 24,
    }


def _large(
    policy: str, env: str, turns: int = 7, window: int = 4096, template: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The paper's setting: 16 tasks an update, 8 trials each, rank-32 adapters on a vLLM of the run's own."""
    return {
        "policy": policy,
        "template": template,
        "collect": {
            "env": env,
            "tasks": 16,
            "trials": 8,
            "max_episodes": 3,
            "max_turns": turns,
            "contents": "reflection",
            "prompt_style": "standard",
            "max_tokens": 1024,
        },
        # Adapters want a larger rate than the paper's full fine-tuning: ten times it, untried here.
        "optimise": {**_PAPER, "learning_rate": 1e-5},
        "lora": {"rank": 32, "alpha": 64},
        "server": {
            "dtype": "bfloat16",
            "max_model_len": window,
            # The trainer of an adapter leaves more than half of an 80 GB card to the server, which can use it.
            "gpu_memory": 0.6,
        },
        "validation": {"tasks": 128, "every": 10},
    }


def _qwen3(env: str, turns: int = 7, window: int = 4096) -> dict[str, Any]:
    """`_large` with Qwen3, which answers without thinking aloud as the paper's agents do."""
    return _large("Qwen/Qwen3-4B", env, turns, window, {"enable_thinking": False})


PRESETS: dict[str, dict[str, Any]] = {
    "minesweeper-cpu": {
        "policy": "examples/policies/minesweeper-warmstart",
        "collect": _board("minesweeper:4x4-3", 10),
        "optimise": _SMALL,
        "validation": _CHOICE,
    },
    # A harder board, 45 minutes: a lower rate learns more of it, less credit for later episodes keeps the first good.
    "minesweeper-5x5-cpu": {
        "policy": "examples/policies/minesweeper-5x5-warmstart",
        "collect": _board("minesweeper:5x5-4", 13),
        "optimise": {**_SMALL, "updates": 500, "learning_rate": 2.5e-4, "gamma_traj": 0.2},
        "validation": _CHOICE,
    },
    # 4x4 as an adapter: a vLLM that serves the warm start takes it without a restart.
    "minesweeper-cpu-lora": {
        "policy": "examples/policies/minesweeper-warmstart",
        "collect": _board("minesweeper:4x4-3", 10),
        "optimise": {**_SMALL, "learning_rate": 2e-3},
        "lora": {"rank": 32, "alpha": 64},
    },
    "sokoban-cpu": {
        "policy": "examples/policies/sokoban-warmstart",
        "collect": _board("sokoban:6x6-2", 7),
        "optimise": _SMALL,
        "validation": _CHOICE,
    },
    # With a hidden pit in the box's way: here there is something that a first attempt finds out for the second.
    "sokoban-pits-cpu": {
        "policy": "examples/policies/sokoban-pits-warmstart",
        "collect": _board("sokoban:6x6-1-pits=1", 7),
        "optimise": _SMALL,
        "validation": _CHOICE,
    },
    # Its warm start missed a gate (valid actions .89), and 16 updates gained nothing: a beginning for experiments.
    "alfworld-cpu": {
        "policy": "examples/policies/alfworld-warmstart",
        "collect": {**_board("alfworld", 10), "max_tokens": 32},
        "optimise": _SMALL,
        "validation": _CHOICE,
    },
    "webshop-cpu": {
        "policy": "examples/policies/webshop-warmstart",
        "collect": {**_board("webshop:1000", 12), "max_tokens": 32},
        "optimise": _SMALL,
        "validation": _CHOICE,
    },
    # A pretrained model on two cores, in plain language; its warm start, which is begun with, is the user's to make:
    # lamer-graph warmup --policy models/smollm2-135m --env minesweeper:4x4-3 --out runs/smollm2-minesweeper
    "minesweeper-smollm2": {
        "policy": "runs/smollm2-minesweeper",
        "collect": {**_board("minesweeper:4x4-3", 6), "tasks": 4, "prompt_style": "standard", "max_tokens": 64},
        # An update is minutes, so there are few of them; a token of a pass takes some 2 MB.
        "optimise": {
            **_SMALL,
            "updates": 40,
            "learning_rate": 2e-4,
            "warmup_updates": 2,
            "mini_batches": 2,
            "micro_batch_tokens": 2048,
        },
        "lora": {"rank": 32, "alpha": 64},
        "validation": {"tasks": 32, "every": 10},
        "save_every": 1,
    },
    "minesweeper-qwen3-4b": _qwen3("minesweeper:6x6-3"),
    "sokoban-qwen3-4b": _qwen3("sokoban:6x6-2"),
    # Histories are long: with fewer calls at a time they fit the server's share of the GPU.
    "alfworld-qwen3-4b": {**_qwen3("alfworld", turns=10), "concurrency": 80},
    # Twice the weights: 126 of the longest calls fit beside them.
    "minesweeper-llama31-8b": {
        **_large("meta-llama/Llama-3.1-8B-Instruct", "minesweeper:6x6-3"),
        "concurrency": 120,
    },
    # Pages of results are long, and a prompt holds those of the whole episode: still fewer calls fit.
    "webshop-qwen3-4b": {
        **_qwen3("webshop:1000", turns=12, window=8_192),
        "concurrency": 48,
    },
}


def rl_baseline(trials: int, max_episodes: int) -> tuple[str, ...]:
    """Changes that make plain RL of a meta-RL run: one episode a trial, and as many trials a task as its own may have
    episodes. RL plays all of them, meta-RL fewer: its trials end at their first success."""
    return ("collect.max_episodes=1", "collect.contents=none", f"collect.trials={trials * max_episodes}")
