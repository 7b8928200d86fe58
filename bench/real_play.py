"""Logged trials of standard prompts as a real tokenizer has them: random play, reflections in words, no model."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ENV = "minesweeper:4x4-3"
TRIALS = 8
"""Of a task."""
EPISODES = 3


def model_folder() -> Path | None:
    """A pretrained model in Hugging Face format: what SMOLLM2 names, or what `make smollm2` makes; None without."""
    folder = Path(os.environ.get("SMOLLM2", "models/smollm2-135m"))
    return folder if (folder / "config.json").is_file() else None


def skipped() -> list[dict[str, Any]]:
    """The row that says that there is no model."""
    note = "there is no model in models/smollm2-135m: `make smollm2` makes it; or name one in SMOLLM2"
    return [{"name": "SmolLM2: skipped", "value": 0.0, "unit": "", "target": "", "note": note}]


def trials(folder: Path, calls: int) -> list[dict[str, Any]]:
    """Whole groups of trials with at least so many calls, as lines of a run log."""
    from lamer_envs import make
    from lamer_graph.policies.loading import renderer_of
    from lamer_graph.trial.prompts import PromptBuilder

    env = make(ENV)
    play = _Play(env, PromptBuilder(env, max_episodes=EPISODES), renderer_of(folder))
    seeds, made, done = env.seeds("train"), [], 0
    while done < calls:
        seed = next(seeds)
        for number in range(TRIALS):
            trial = play.trial(seed, number)
            made.append(trial)
            done += sum(len(episode["turns"]) for episode in trial["episodes"]) + len(trial["reflections"])
    return made


class _Play:
    def __init__(self, env: Any, prompts: Any, renderer: Any) -> None:
        self.env, self.prompts, self.renderer = env, prompts, renderer

    def trial(self, seed: int, number: int) -> dict[str, Any]:
        from lamer_graph.trial.prompts import Remembered

        rng = random.Random(1000 * seed + number)
        task = {"id": f"{ENV}/{seed}", "env": ENV, "seed": seed, "instance": None, "split": "train"}
        sampling = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_tokens": 64, "seed": 0}
        episodes: list[dict[str, Any]] = []
        reflections: list[dict[str, Any]] = []
        memory: list[Any] = []
        for episode in range(1, EPISODES + 1):
            turns, told, state = self._episode(seed, episode, memory, rng)
            success = turns[-1]["success"]
            reward = sum(turn["reward"] for turn in turns)
            episodes.append({"turns": turns, "success": success, "reward": reward, "truncated": False})
            if success or episode == EPISODES:
                break
            text = f"There is a mine at {turns[-1]['action']}. Do not open {turns[-1]['action']} again."
            view = self.prompts.view(state, episode, told, memory)
            call = self._call(self.prompts.reflect(view), self.prompts.remark_answer(text))
            reflections.append({"episode": episode - 1, "text": text, "valid": True, "call": call})
            memory = [*memory, Remembered("reflection", text, episode)]
        return {
            "trial_id": f"{task['id']}#{number}",
            "task": task,
            "trial": number,
            "sampling": sampling,
            "episodes": episodes,
            "reflections": reflections,
            "success": episodes[-1]["success"],
            "error": None,
        }

    def _episode(
        self, seed: int, episode: int, memory: Any, rng: random.Random
    ) -> tuple[list[Any], tuple[Any, ...], Any]:
        from lamer_graph.trial.prompts import Turn

        state, turns, told = self.env.reset(seed), [], ()
        while len(turns) < self.prompts.turns:
            seen = self.env.observe(state)
            view = self.prompts.view(state, episode, told, memory)
            action = rng.choice(self.env.admissible(state))
            call = self._call(self.prompts.act(view), self.prompts.action_answer(action))
            step = self.env.step(state, action)
            turn = {"observation": seen, "action": action, "reward": step.reward, "valid": step.valid, "text": ""}
            turns.append({**turn, "success": step.success, "call": call})
            told = (*told, Turn(seen, action, self.env.outcome(state, action, step)))
            state = step.state
            if step.done:
                break
        return turns, told, state

    def _call(self, messages: Any, answer: str) -> dict[str, Any]:
        tokenizer = self.renderer.tokenizer
        tokens = [*tokenizer(answer, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        return {
            "messages": messages,
            "prompt_token_ids": self.renderer.ids(messages),
            "token_ids": tokens,
            "logprobs": [-0.5] * len(tokens),
            "policy_version": "policy-v0000",
        }


def tokens_of(calls: Iterator[dict[str, Any]] | list[dict[str, Any]]) -> tuple[int, int]:
    """Tokens that a model must compute for these calls: all of them, and the distinct beginnings."""
    wholes = [(*call["prompt_token_ids"], *call["token_ids"])[:-1] for call in calls]
    return sum(map(len, wholes)), len({hash(whole[:end]) for whole in wholes for end in range(1, len(whole) + 1)})


def calls_of(played: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every call of these trials."""
    found = [turn["call"] for trial in played for episode in trial["episodes"] for turn in episode["turns"]]
    return found + [made["call"] for trial in played for made in trial["reflections"]]
