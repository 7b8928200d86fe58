"""What a training run will take: calls, tokens, memory and time of an update, before anything is loaded or started.

What must stay true: every number says what it rests on, and what depends on the policy's behaviour is a range. Its low
end is play with random admissible actions and the shortest answers that name an action, its high end uses every turn
and `collect.max_tokens`. Prompts are those of the random play, in tokens of the policy's tokenizer where its folder is
here, else at `CHARS_PER_TOKEN`. Memory is `memory`'s to say; rates are those of the device that is here, or of a data
sheet (`devices`).

Arithmetic per token of a transformer with P parameters (Kaplan et al., arXiv 2001.08361, table 1): 2 P to run it, 6 P
to train it, 4 P where it is frozen under an adapter (and 2 P more where activations are computed again). Decoding reads
all weights once per step of the whole batch.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from lamer_envs import make
from lamer_envs.base import Env
from lamer_graph.collection.collect import TASKS
from lamer_graph.errors import ConfigError
from lamer_graph.policies.loading import check_folder, renderer_of
from lamer_graph.policies.local import SMALL
from lamer_graph.policies.prefixes import common
from lamer_graph.policies.room import GIB
from lamer_graph.policies.shipped import is_policy
from lamer_graph.trial.prompts import Remembered, Turn
from lamer_graph.types import Message
from lamer_trainers.loop.devices import DEVICES, Device, DeviceName, here
from lamer_trainers.loop.memory import memory_warnings, placed, sampler_bytes, trainer_bytes
from lamer_trainers.loop.shapes import Shape, shape_of
from lamer_trainers.runfile import RunFile

CHARS_PER_TOKEN = 3.5
PLAYED = 16
"""Trials that are played at random to measure prompts."""
GROUP = 8
"""Of one task, at most: a larger group shares hardly more."""
TRAINING_SHARE, SAMPLING_SHARE = 0.6, 0.4
"""Of the rate of a product of matrices, what a step of a model gets: of training, and of sampling in this process."""


@dataclass(frozen=True)
class Plan:
    """A run's needs. Ranges are (shortest answers, longest answers).

    `tokens` are all that the calls have; `distinct` is the share of the prompts' that is left if common beginnings
    count once, as they do in training and where prompts' keys and values are kept. `server_gib` is what the sampler
    needs, `reserved_gib` what a vLLM takes for it (None: no share of a device).
    """

    calls: tuple[int, int]
    prompt_tokens_mean: float
    prompt_tokens_max: int
    tokens_measured: bool
    answer_tokens: tuple[int, int]
    tokens: tuple[int, int]
    distinct: float
    parameters: int
    trained_parameters: int
    trainer_gib: float
    server_gib: float
    reserved_gib: float | None
    placement: str
    peak_gib: float
    peak_says: str
    device: str
    device_gib: float | None
    device_says: str
    collect_seconds: tuple[float, float]
    train_seconds: tuple[float, float]
    updates: int
    hours: tuple[float, float]
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def plan(run: RunFile, device: DeviceName | None = None) -> Plan:
    """What `run` will take on `device` (None: the one that is here, which a probe of a second measures).

    Raises TrainingConfigError for a policy whose size cannot be known here, ConfigError for one that cannot play here.
    """
    if is_policy(Path(run.base)):
        check_folder(Path(run.base), plays=run.plays_here)
    shape, encode = shape_of(run.base), tokens_of(run.base, run.template_args)
    speed = here(shape) if device is None else DEVICES[device]
    collect = run.collect
    if collect.of_application:
        raise ConfigError(f"'{collect.env}' is an application's: its logs say what it asks, so there is no plan")
    if run.optimise.algorithm == "dpo":
        raise ConfigError("dpo collects nothing: `loop.prefer.counted` says what its logs hold")
    turns = collect.max_turns or make(collect.env).max_turns
    reflections = collect.max_episodes - 1 if collect.contents in ("reflection", "both") else 0
    most = collect.max_episodes * turns + reflections
    trials = collect.tasks * collect.trials
    rerolled = collect.tasks * collect.rerolls * min(collect.reroll_trials, collect.trials)
    played = measure(run, encode or _by_characters)
    calls = (round(trials * len(played.prompts) / PLAYED), (trials + rerolled) * most)
    mean, longest = sum(played.prompts) / len(played.prompts), max(played.prompts)
    answers = (played.shortest, collect.max_tokens)
    tokens = (round(calls[0] * (mean + answers[0])), round(calls[1] * (mean + answers[1])))
    trainer = trainer_bytes(run, shape, speed)
    sampler = sampler_bytes(run, shape, longest + answers[1], speed)
    placement, peak, peak_says = placed(run, trainer, sampler)
    work = [Work(made, mean, answer, played.distinct) for made, answer in zip(calls, answers, strict=True)]
    # What logs have is read; how many calls theirs are is not looked up.
    collecting = [0.0 if run.logs else _collect_seconds(run, shape, speed, each, sampler.weights) for each in work]
    training = [_train_seconds(run, shape, speed, each) for each in work]
    pairs = zip(collecting, training, strict=True)
    whole = [(max(pair) if run.pipeline else sum(pair)) * run.optimise.updates / 3600 for pair in pairs]
    return Plan(
        calls=calls,
        prompt_tokens_mean=round(mean, 1),
        prompt_tokens_max=longest,
        tokens_measured=encode is not None,
        answer_tokens=answers,
        tokens=tokens,
        distinct=round(played.distinct, 3),
        parameters=shape.parameters,
        trained_parameters=shape.adapter(run.lora.rank, run.lora.modules) if run.lora else shape.parameters,
        trainer_gib=trainer.total / GIB,
        server_gib=sampler.needs / GIB,
        reserved_gib=None if sampler.reserved is None else sampler.reserved / GIB,
        placement=placement,
        peak_gib=peak / GIB,
        peak_says=peak_says,
        device=device or "here",
        device_gib=None if speed.memory is None else speed.memory / GIB,
        device_says=speed.says,
        collect_seconds=(collecting[0], collecting[1]),
        train_seconds=(training[0], training[1]),
        updates=run.optimise.updates,
        hours=(whole[0], whole[1]),
        warnings=(*_window_warnings(run, longest), *memory_warnings(run, sampler, peak, speed)),
    )


# -- time -------------------------------------------------------------------------------------------------------------


class Work(NamedTuple):
    """An update's calls, the mean tokens of their prompts and answers, and which share of the prompts' are distinct."""

    calls: float
    prompt: float
    answer: float
    distinct: float


def _collect_seconds(run: RunFile, shape: Shape, device: Device, work: Work, weights: float) -> float:
    """Prompts, once where what they have in common is kept, and steps: each computes a token of all calls under way and
    reads all weights once."""
    rate = device.flops * (SAMPLING_SHARE if device.measured else 1.0)
    shared = run.server is not None or shape.parameters >= SMALL
    prompts = work.calls * work.prompt * (work.distinct if shared else 1.0)
    arithmetic = (prompts * shape.blocks + work.calls * work.answer * (shape.blocks + shape.head)) * 2
    arithmetic += (prompts + work.calls * work.answer) * _attention(shape, work)
    trials = run.collect.tasks * run.collect.trials
    steps = work.calls / trials * -(-trials // run.concurrency) * work.answer
    return arithmetic / rate + steps * weights / device.bandwidth


def _train_seconds(run: RunFile, shape: Shape, device: Device, work: Work) -> float:
    """Passes over distinct tokens; only answers go through the head. What is frozen has no gradient of its own."""
    rate = device.flops * (TRAINING_SHARE if device.measured else 1.0)
    optimise = run.optimise
    back = (4 if run.lora else 6) + (2 if optimise.gradient_checkpointing else 0)
    # Old logprobs are one more forward pass.
    times = optimise.passes * back + (2 if optimise.old_logprobs == "recomputed" else 0)
    share = work.distinct if optimise.share_prefixes else 1.0
    tokens = work.calls * (work.prompt * share + work.answer)
    arithmetic = tokens * (shape.blocks + _attention(shape, work) / 2) + work.calls * work.answer * shape.head
    return times * arithmetic / rate


def _attention(shape: Shape, work: Work) -> float:
    """FLOP of one token's attention forward: to half of a call before it, on average, at 4 for each number of a key."""
    return 4 * shape.layers * shape.heads * shape.head_dim * (work.prompt + work.answer) / 2


def _window_warnings(run: RunFile, longest: int) -> list[str]:
    window = run.server.max_model_len if run.server else None
    needed = longest + run.collect.max_tokens
    if window is not None and needed > window:
        return [
            f"prompts of up to {longest} tokens and answers of {run.collect.max_tokens} exceed server.max_model_len "
            f"{window}: oldest turns will be left out; {needed} would hold all"
        ]
    return []


Encode = Callable[[Sequence[Message]], Sequence[Any]]
"""A prompt's tokens, of any kind that can be compared."""


def tokens_of(policy: str, template_args: Mapping[str, Any] | None = None) -> Encode | None:
    """A prompt's tokens as the policy reads it, chat template included; None where its tokenizer is not here."""
    if not is_policy(Path(policy)):
        return None
    return renderer_of(policy, template_args).ids


def _by_characters(messages: Sequence[Message]) -> list[str]:
    """Pieces of `CHARS_PER_TOKEN` characters on average."""
    text = "".join(message["content"] for message in messages)
    cuts = [round(place * CHARS_PER_TOKEN) for place in range(round(len(text) / CHARS_PER_TOKEN) + 1)]
    return [text[a:b] for a, b in itertools.pairwise(cuts)]


class Played(NamedTuple):
    """Tokens of every prompt, of the shortest answer, and the share of prompts' tokens that no other's begin with."""

    prompts: list[int]
    shortest: int
    distinct: float


def distinct_share(prompts: Sequence[Sequence[Any]]) -> float:
    """Of all tokens of these prompts, how many are left if common beginnings count once."""
    ordered = sorted(map(list, prompts))
    again = sum(common(a, b) for a, b in itertools.pairwise(ordered))
    return 1.0 - again / max(1, sum(map(len, ordered)))


def measure(run: RunFile, encode: Encode) -> Played:
    """What `PLAYED` trials of random admissible play ask, in groups as the run has them (of `GROUP` at most)."""
    collect, rng = run.collect, random.Random(0)
    env = make(collect.env)
    if env.name == TASKS:
        raise ConfigError(f"'{env.spec}' is an application's: what it asks is known once it plays, so there is no plan")
    prompts = collect.prompts(env)
    asked: list[Sequence[Any]] = []
    shortest: list[int] = []
    seeds = env.seeds(collect.split)
    memory: list[Remembered] = []
    nothing = len(encode([Message(role="user", content="")]))
    group = min(collect.trials, GROUP)
    for number in range(PLAYED):
        if number % group == 0:
            start = env.reset(next(seeds))
        others = [replace(record, own=False) for record in memory] if collect.scope == "tasks" else []
        memory = (others * collect.k)[: collect.k]
        for episode in range(1, collect.max_episodes + 1):
            turns: list[Turn] = []
            state, over = start, False
            while not over:
                view = prompts.view(state, episode, tuple(turns), memory)
                if collect.strategy == "plan":
                    told = "x" * min(200, collect.max_tokens)
                    view = replace(view, plan=told) if turns else replace(view, last_plan=told if episode > 1 else "")
                messages = prompts.act(view)
                asked.append(encode(messages))
                action = _some_action(env, state, rng)
                said = Message(role="user", content=prompts.action_answer(action))
                shortest.append(max(2, len(encode([said])) - nothing))
                step = env.step(state, action)
                turns.append(Turn(env.observe(state), action, env.outcome(state, action, step)))
                state, over = step.state, step.done or len(turns) >= prompts.turns
            if step.success:
                break
            last = prompts.view(state, episode).observation
            if collect.contents in ("trajectory", "both"):
                memory.append(Remembered("trajectory", prompts.trajectory(turns, last), episode))
            if collect.contents in ("reflection", "both"):
                memory.append(Remembered("reflection", "x" * min(200, collect.max_tokens), episode))
    return Played([len(tokens) for tokens in asked], min(shortest), distinct_share(asked))


def _some_action(env: Env, state: Any, rng: random.Random) -> str:
    """An admissible action; of an environment that lists none, its weak player's or else an invalid one."""
    if env.offers("admissible"):
        return rng.choice(env.admissible(state))
    return env.weak(state, rng) if env.offers("weak") else "?"
