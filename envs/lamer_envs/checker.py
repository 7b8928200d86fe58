"""The public checker of environments: plays an environment and proves that it keeps the protocol of `Env`.

What must stay true: every promise in `lamer_envs.base` that can be observed is tried here, on real episodes, and the
first broken one becomes one EnvCheckError. Determinism is tried in fresh processes under other hash seeds: run as a
module, this file plays the tasks it is given and prints what it saw.
"""

from __future__ import annotations

import copy
import json
import math
import os
import random
import subprocess
import sys
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from importlib import import_module
from itertools import islice
from typing import Any

from lamer_envs.base import Env, State, Step
from lamer_envs.errors import EnvCheckError, EnvParameterError, InstanceError
from lamer_envs.strange import STRANGE_TEXTS
from lamer_envs.watched import Watched, is_json

_CHILD_TIMEOUT = 300
_FIRST_ACTIONS = 100

_MUST = {
    "rules": "the rules and the goal as text",
    "action_format": "how an action is written, as text with an example",
    "reset": "reset(self, seed: int) -> dict, the first state of the task with this seed",
    "observe": "observe(self, state) -> str, what the policy reads",
    "step": "step(self, state, action: str) -> Step, what one turn does",
    "parse": "parse(self, answer: str) -> str | None, the canonical action in an answer",
}
"""What an environment has to write, in the order in which it is best written."""


def check_env(
    env: Env, *, tasks: int = 8, per_split: int = 8, processes: bool = True, actions: Sequence[str] = ()
) -> None:
    """Raise EnvCheckError if `env` breaks the protocol; return None if nothing was found.

    `tasks` seeds are played by the expert, the weak player and a random one, `per_split` instances of each split are
    compared, and `processes` repeats the play in two new processes under other hash seeds (the environment's class
    must then be importable). Takes a few seconds for a fast environment. What the environment does not offer (`solve`,
    `admissible`, `weak`) is not tried, and a UserWarning says so; `actions` are texts to play at random where it lists
    no admissible ones.
    """
    _check_whole(env)
    watched = Watched(env)
    seeds = range(tasks)
    missing = [method for method in ("admissible", "weak", "solve") if not watched.offers(method)]
    if missing:
        listed = " and ".join(f"`{method}`" for method in missing)
        hint = "" if "admissible" not in missing or actions else "; without `admissible`, give actions= to play"
        warnings.warn(f"{watched.name} has no {listed}, so their promises were not checked{hint}", stacklevel=2)
    _check_texts(watched)
    _check_identity(watched)
    for seed in seeds:
        _check_reset(watched, seed)
        _check_play(watched, seed, actions)
        _check_expert(watched, seed)
        _check_strange_texts(watched, seed)
        if watched.offers("judge"):
            _check_judge(watched, seed)
    _check_charge(watched)
    _check_splits(watched, per_split)
    _check_load(env)
    if processes:
        _check_processes(env, seeds)


def _check_whole(env: object) -> None:
    """`env` is an object of a subclass of Env that lacks nothing."""
    cls = env if isinstance(env, type) else type(env)
    if not issubclass(cls, Env):
        raise EnvCheckError(f"check_env takes an object of a subclass of lamer_envs.Env, not {cls.__name__}")
    lacks = [member for member in _MUST if member in cls.__abstractmethods__]
    if lacks:
        then = f"; then {', '.join(f'`{member}`' for member in lacks[1:])}" if lacks[1:] else ""
        raise EnvCheckError(f"{cls.__name__} is not whole: write `{lacks[0]}` next, {_MUST[lacks[0]]}{then}")
    if isinstance(env, type):
        raise EnvCheckError(f"check_env takes an object, not the class: check_env({cls.__name__}(..))")


def _require(holds: bool, env: Env | Watched, message: str) -> None:
    if not holds:
        raise EnvCheckError(f"{env.name}: {message}")


def _check_texts(env: Watched) -> None:
    for what in ("name", "spec", "rules", "action_format"):
        value = getattr(env, what)
        _require(isinstance(value, str) and bool(value.strip()), env, f"`{what}` must be text that is not empty")
    turns = env.max_turns
    _require(type(turns) is int and turns >= 1, env, f"`max_turns` must be an integer of at least 1, not {turns!r}")
    _require(is_json(dict(env.params)), env, "`params` must be plain JSON")


def _check_identity(env: Watched) -> None:
    own = env.env
    name, _, params = env.spec.partition(":")
    _require(name == env.name, env, f"`spec` {env.spec!r} must begin with the name")
    again: object = env.from_spec(params)
    _require(isinstance(again, Env), env, f"`from_spec` must give an environment, not {type(again).__name__}")
    assert isinstance(again, Env)
    _require(again == own and hash(again) == hash(own), env, f"`from_spec` of {env.spec!r} gives another environment")
    _require(again.params == env.params, env, f"`from_spec` of {env.spec!r} gives other `params`")


def _check_reset(env: Watched, seed: int) -> None:
    before = random.getstate()
    state = env.reset(seed)
    _require(random.getstate() == before, env, "`reset` uses Python's global random state")
    _require(is_json(state), env, f"the state of seed {seed} is not plain JSON: it must equal its own round trip")
    random.seed(12345)
    same = env.reset(seed)
    random.setstate(before)
    _require(state == same, env, f"`reset({seed})` gave two different states")
    same.clear()
    _require(env.reset(seed) == state, env, f"changing the dict that `reset({seed})` gave changes the next one")
    for what in ("observe", "compact", "about", "render", "instance"):
        value = getattr(env, what)(state)
        _require(isinstance(value, str) and bool(value), env, f"`{what}` must give text that is not empty")
    _check_progress(env, state, False)


def _check_play(env: Watched, seed: int, actions: Sequence[str]) -> None:
    """Admissible actions are valid, the weak player's actions parse, and a step is a pure function, to the end."""
    rng = random.Random(seed)
    listed = env.offers("admissible")
    if listed:
        state = env.reset(seed)
        for action in env.admissible(state)[:_FIRST_ACTIONS]:
            valid = env.step(copy.deepcopy(state), action).valid
            _require(valid, env, f"seed {seed}: the admissible action {action!r} is not valid")
    players = {"random": listed or bool(actions), "weak": env.offers("weak")}
    for player in (name for name, plays in players.items() if plays):
        state = env.reset(seed)
        instance = env.instance(state)
        for _ in range(env.max_turns):
            choices = env.admissible(state) if listed else list(actions)
            _require(
                bool(choices) or player == "weak",
                env,
                f"seed {seed}: no admissible action although the episode goes on",
            )
            _require(len(set(choices)) == len(choices) or not listed, env, f"seed {seed}: `admissible` repeats itself")
            action = env.weak(state, rng) if player == "weak" else rng.choice(choices)
            canonical = env.parse(action)
            ours = listed or player == "weak"  # else the texts are the caller's, who may be wrong
            _require(
                canonical is not None or not ours, env, f"`parse` refuses {action!r}, an action of the {player} player"
            )
            if player == "random" and listed:
                _require(
                    canonical == action, env, f"`admissible` offers {action!r}, but `parse` makes it {canonical!r}"
                )
            step = _checked_step(env, state, action)
            _require(step.valid or not ours, env, f"seed {seed}: {action!r} of the {player} player is not valid")
            same = not env.offers("instance") or env.instance(step.state) == instance
            _require(same, env, f"`instance` changed within an episode of seed {seed}")
            state = step.state
            if step.done:
                _check_over(env, state)
                break


def _check_over(env: Watched, state: State) -> None:
    """A finished episode offers nothing more and stays as it is."""
    first: list[str] = []
    if env.offers("admissible"):
        _require(env.admissible(state) == [], env, "`admissible` must be empty once the episode is done")
        first = env.admissible(env.reset(0))[:1]
    for action in ("", *first):
        step = _checked_step(env, state, action)
        _require(step.done and not step.valid, env, "a step after the end must be invalid and done")
        _require(step.state == state, env, "a step after the end must not change the state")


def _checked_step(env: Watched, state: State, action: str) -> Step:
    """One step, tried twice: it must not raise, mutate its input, depend on anything else, or leave JSON."""
    kept, before = copy.deepcopy(state), random.getstate()
    shown = repr(action[:60])
    step: Step = env.step(state, action)
    again = env.step(json.loads(json.dumps(kept)), action)
    _require(random.getstate() == before, env, "`step` uses Python's global random state")
    _require(state == kept, env, f"`step` with {shown} mutated the state that it was given")
    _require(step.state is not state, env, "`step` must return a new state, not the one it was given")
    number = type(step.reward) in (int, float) and math.isfinite(step.reward)  # first: nan is not even equal to itself
    _require(number, env, f"the reward after {shown} must be a finite number, not {step.reward!r}")
    _require(step == again, env, f"`step` with {shown} gave two different results for one state")
    _require(is_json(step.state), env, f"the state after {shown} is not plain JSON")
    _require(step.observation == env.observe(step.state), env, "`observation` must be `observe` of the new state")
    flags = all(type(flag) is bool for flag in (step.done, step.success, step.valid))
    _require(flags, env, "`done`, `success` and `valid` must be True or False")
    _require(step.done or not step.success, env, "`success` without `done`")
    _check_progress(env, step.state, step.success)
    if step.valid:
        env.dearest = min(env.dearest, step.reward)
    else:
        env.charge = max(env.charge, step.reward)
    outcome = env.outcome(state, action, step)
    _require(isinstance(outcome, str) and bool(outcome), env, f"`outcome` of {shown} must be text that is not empty")
    if not step.valid:
        _require(step.state == kept, env, f"the invalid action {shown} changed the state")
        charged = (
            f"the invalid action {shown} has reward {step.reward}, but `penalises_invalid` is {env.penalises_invalid}"
        )
        _require((step.reward < 0) == env.penalises_invalid, env, charged)
    return step


def _check_progress(env: Watched, state: State, won: bool) -> None:
    """A number in [0, 1] that is 1 when the state is won and only then, or never a number."""
    told = env.progress(state)
    _require((told is None) != env.offers("progress"), env, "`progress` must be a number of each state, or None of all")
    if told is not None:
        _require(0 <= told <= 1, env, f"`progress` must lie in [0, 1], not be {told!r}")
        _require((told == 1) == won, env, f"`progress` must be 1 exactly when it is won, not {told!r} when {won=}")
        _require(env.progress(copy.deepcopy(state)) == told, env, "`progress` gave two numbers for one state")


def _check_charge(env: Watched) -> None:
    """Where an invalid turn costs something, what a trainer must know of it."""
    if env.penalises_invalid and env.dearest < env.charge and not env.invalid_is_cheap:
        warnings.warn(
            f"{env.name}: an invalid turn costs {-env.charge:g} and a legal one up to {-env.dearest:g}: not to play "
            "pays; set `invalid_is_cheap = True` for trainers to charge for it, too",
            stacklevel=3,
        )
    cheap = env.invalid_is_cheap and not env.penalises_invalid
    _require(not cheap, env, "`invalid_is_cheap` is for what `step` charges, and it charges nothing: leave it False")


def _check_expert(env: Watched, seed: int) -> None:
    state = env.reset(seed)
    plan = env.solve(state)
    if plan is None:  # no expert knows this task
        return
    _require(bool(plan), env, f"the expert has nothing to do for seed {seed}; `solve` is None where it knows no way")
    fits = len(plan) <= env.max_turns
    _require(fits, env, f"the expert takes {len(plan)} turns for seed {seed}; the budget is {env.max_turns}")
    for number, action in enumerate(plan, start=1):
        step = _checked_step(env, state, action)
        _require(step.valid, env, f"the expert's action {action!r} (seed {seed}) is not valid")
        last = number == len(plan)
        _require(step.done == last, env, f"the expert's plan for seed {seed} is not done exactly with its last action")
        state = step.state
    _require(step.success, env, f"the expert's plan for seed {seed} does not win")


def _check_strange_texts(env: Watched, seed: int) -> None:
    """Whatever a policy writes is an action or an invalid turn, never an exception."""
    state, rng = env.reset(seed), random.Random(seed)
    noise = ["".join(chr(rng.randrange(1, 0x2FF)) for _ in range(rng.randrange(40))) for _ in range(20)]
    for text in (*STRANGE_TEXTS, *noise):
        parsed = env.parse(text)
        step = _checked_step(env, state, text)
        if parsed is None:
            _require(not step.valid, env, f"`parse` refuses {text[:60]!r}, but `step` takes it as valid")
        else:
            _require(env.parse(parsed) == parsed, env, f"`parse` is not stable on {text[:60]!r}")


def _check_judge(env: Watched, seed: int) -> None:
    """A text without a word is never true, and judging depends on nothing else and changes nothing."""
    start = env.reset(seed)
    actions = (env.admissible(start) if env.offers("admissible") else (env.solve(start) or []))[:1]
    for text in STRANGE_TEXTS:
        first = env.judge(start, actions, text)
        _require(first == env.judge(start, actions, text), env, f"`judge` judges {text[:60]!r} in two ways")
        _require(bool(text.strip()) or not first, env, "`judge` takes a text without a word for a true one")
    _require(start == env.reset(seed), env, "`judge` mutated the state that it was given")


def _check_splits(env: Watched, per_split: int) -> None:
    owner: dict[str, str] = {}
    for split in env.splits:
        seeds = list(islice(env.env.seeds(split), per_split))
        _require(seeds == sorted(set(seeds)), env, f"`seeds('{split}')` must increase")
        for seed in seeds:
            state = env.reset(seed)
            text = env.instance(state)
            _require(
                env.split_of(state) == split, env, f"`seeds('{split}')` gave {seed}, which `split_of` puts elsewhere"
            )
            other = owner.setdefault(text, split)
            _require(other == split, env, f"splits '{other}' and '{split}' share the instance {text[:80]!r}")
    try:
        env.env.seeds("no such split")
    except EnvParameterError:
        return
    raise EnvCheckError(f"{env.name}: `seeds` of an unknown split must raise EnvParameterError at once")


def _check_load(env: Env) -> None:
    """Text is no instance, whatever it says: a request or a log must not be able to name a file."""
    text: Any = "no instance"
    try:
        env.load(text)
    except InstanceError:
        return
    except Exception as error:
        raise EnvCheckError(
            f"{env.name}: `load` of text must raise InstanceError, not {type(error).__name__}: text is data, a file is "
            "given as pathlib.Path"
        ) from error
    raise EnvCheckError(f"{env.name}: `load` takes any text as an instance; it must raise InstanceError")


def _check_processes(env: Env, seeds: Sequence[int]) -> None:
    cls = type(env)
    if cls.__module__ == "__main__" or "<locals>" in cls.__qualname__:
        where = "in __main__" if cls.__module__ == "__main__" else "inside a function"
        raise EnvCheckError(
            f"{env.name}: another process cannot import {cls.__name__}, a class defined {where}: put the class in a "
            "module that can be imported, or pass processes=False"
        )
    command = [sys.executable, "-m", "lamer_envs.checker", cls.__module__, cls.__qualname__, env.spec]
    here = _transcript(env, seeds)
    for hash_seed in ("0", "4242"):
        variables = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        try:
            child = subprocess.run(
                [*command, *map(str, seeds)],
                env=variables,
                capture_output=True,
                text=True,
                encoding="utf-8",
                timeout=_CHILD_TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise EnvCheckError(
                f"{env.name}: another process had not played {len(seeds)} tasks after {_CHILD_TIMEOUT} s; check fewer "
                "tasks (tasks=), or pass processes=False"
            ) from None
        if child.returncode:
            reason = (child.stderr.strip().splitlines() or ["no message"])[-1]
            raise EnvCheckError(f"{env.name}: another process could not play {env.spec!r}: {reason}")
        there = json.loads(child.stdout)
        for seed, mine, other in zip(seeds, here, there, strict=True):
            same = mine == other
            _require(same, env, f"seed {seed} plays differently in another process (PYTHONHASHSEED={hash_seed})")


def _transcript(env: Env, seeds: Sequence[int]) -> list[Any]:
    """Everything seen while the expert and then a random player play each seed."""
    seen = []
    for seed in seeds:
        rng = random.Random(seed)
        first = env.reset(seed)
        state = first
        log: list[Any] = [first, env.observe(first), env.compact(first), env.about(first), env.instance(first)]
        log.append(env.split_of(first))
        log += [env.weak(first, rng)] if env.offers("weak") else []
        plan = env.solve(first) or []
        log.append(plan)
        for turn in range(env.max_turns):
            choices = env.admissible(state) if env.offers("admissible") else plan[turn : turn + 1]
            if not choices and env.offers("weak"):
                choices = [env.weak(state, rng)]
            if not choices:
                break
            step = env.step(state, rng.choice(choices))
            log.append([choices, list(step), env.compact(step.state), env.progress(step.state)])
            if step.done:
                break
            state = step.state
        seen.append(log)
    return json.loads(json.dumps(seen))  # type: ignore[no-any-return]


def _main(module: str, qualname: str, spec: str, *seeds: str) -> None:
    with redirect_stdout(sys.stderr):  # what an environment prints must not get between what is answered
        cls: Any = import_module(module)
        for part in qualname.split("."):
            cls = getattr(cls, part)
        env: Env = cls.from_spec(spec.partition(":")[2])
        seen = _transcript(env, [int(seed) for seed in seeds])
    sys.stdout.write(json.dumps(seen))


if __name__ == "__main__":
    _main(*sys.argv[1:])
