"""An environment of one's own writes six members; the rest is honest about what it does not know."""

from __future__ import annotations

import random
import re
from importlib.metadata import EntryPoint
from itertools import islice
from pathlib import Path
from typing import Any, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamer_envs import (
    Env,
    EnvCheckError,
    EnvParameterError,
    InstanceError,
    NotOfferedError,
    State,
    Step,
    check_env,
    make,
    registry,
)


class Count(Env):
    """Say the next number until `goal`."""

    rules = "Count up, one number a turn."
    action_format = "a number"

    def __init__(self, goal: int = 3, start: int | None = None, loud: bool = False, pace: float = 1.0) -> None:
        self.goal, self.start, self.loud, self.pace = goal, start, loud, pace

    def reset(self, seed: int) -> State:
        return {"at": (self.start or 0) + seed % 50, "left": self.goal}

    def observe(self, state: State) -> str:
        return f"Last was {state['at']}.\nTo go: {state['left']} [bold]"

    def step(self, state: State, action: str) -> Step:
        over = state["left"] == 0
        if over or self.parse(action) != str(state["at"] + 1):
            return Step(dict(state), self.observe(state), 0.0, over, over, False)
        after = {"at": state["at"] + 1, "left": state["left"] - 1}
        won = after["left"] == 0
        return Step(after, self.observe(after), 10.0 * won, won, won, True)

    def parse(self, answer: str) -> str | None:
        return answer.strip() if re.fullmatch(r"\s*[1-9][0-9]{0,2}\s*", answer, re.ASCII) else None


def test_six_members_make_an_environment_that_keeps_the_contract() -> None:
    with pytest.warns(UserWarning, match="count has no `admissible` and `weak` and `solve`.*actions="):
        check_env(Count(), tasks=3)
    with pytest.warns(UserWarning, match="not checked$"):
        check_env(Count(1), tasks=3, actions=[str(number) for number in range(1, 52)])


def test_what_was_not_written_has_an_honest_default() -> None:
    env = Count()
    state = env.reset(4)
    assert (env.name, env.max_turns, env.splits) == ("count", 10, ("train", "val", "test"))
    assert env.compact(state) == env.about(state) == env.observe(state)
    assert env.render(state).endswith("\\[bold]")
    assert env.solve(state) is None
    assert env.outcome(state, " 5", env.step(state, "5")) == "5: Last was 5. To go: 2 [bold]"
    assert env.outcome(state, "9", env.step(state, "9")) == "9: invalid"
    assert env.outcome(state, "?", env.step(state, "?")) == "no action: invalid"
    last = {"at": 6, "left": 1}
    assert env.outcome(last, "7", env.step(last, "7")) == "7: won"
    for call in (lambda: env.admissible(state), lambda: env.weak(state, random.Random(0))):
        with pytest.raises(NotOfferedError, match=r"count .*; write `(admissible|weak)\(self, state"):
            call()
    for instance in ({"at": 3}, Path("x"), "x"):
        with pytest.raises(InstanceError, match=r"write `load\(self, instance\)`"):
            env.load(instance)  # type: ignore[arg-type]


@pytest.mark.parametrize("annotation", ["int | None", "None | int", "Optional[int]", Optional[int], None | int])  # noqa: UP045
def test_a_parameter_that_may_be_left_out_is_read_as_its_type_however_it_is_written(annotation: Any) -> None:
    class Late(Count):
        def __init__(self, goal: int = 3, start: Any = None) -> None:
            super().__init__(goal, start)

    Late.__init__.__annotations__["start"] = annotation
    made = Late.from_spec("start=7")
    assert isinstance(made, Late)
    assert made.start == 7
    with pytest.raises(EnvParameterError, match="start must be a whole number, not 'x'"):
        Late.from_spec("start=x")


def test_splits_are_disjoint_by_the_first_state() -> None:
    env = Count()
    found = {split: {env.instance(env.reset(seed)) for seed in islice(env.seeds(split), 5)} for split in env.splits}
    assert not found["train"] & found["val"] | found["val"] & found["test"] | found["train"] & found["test"]


@given(
    goal=st.integers(-5, 500), start=st.none() | st.integers(0, 9), loud=st.booleans(), pace=st.floats(0, 1e6),
)  # fmt: skip
def test_the_default_spec_makes_an_equal_environment(goal: int, start: int | None, loud: bool, pace: float) -> None:
    env = Count(goal, start, loud, pace)
    name, _, text = env.spec.partition(":")
    again = Count.from_spec(text)
    assert name == "count"
    assert again == env
    assert again.params == env.params == {"goal": goal, "start": start, "loud": loud, "pace": pace}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x", "count's goal must be a whole number, not 'x'"),
        ("goals=3", "cannot read 'goals=3' in its spec; did you mean 'goal'.*Parameters: goal, start, loud, pace"),
        ("3,4", "cannot read '4'"),
        ("goal=3,goal=4", "cannot read 'goal=4'"),
        ("3,loud=1", "loud must be True or False"),
        ("3,pace=fast", "pace must be a number"),
    ],
)
def test_a_wrong_spec_of_a_plug_in_is_refused_with_what_would_be_right(text: str, says: str) -> None:
    with pytest.raises(EnvParameterError, match=says):
        Count.from_spec(text)


def test_a_parameter_that_no_spec_can_hold_is_named() -> None:
    class Titled(Count):
        def __init__(self, title: str = "x", words: Any = None) -> None:
            super().__init__()
            self.title, self.words = title, words

    for env, key in ((Titled("a,b"), "title"), (Titled("x", ["a"]), "words")):
        with pytest.raises(EnvParameterError, match=f"{key}=.*write `spec` and `from_spec`"):
            env.spec  # noqa: B018

    class Forgets(Count):
        def __init__(self, size: int) -> None:
            super().__init__()

    with pytest.raises(EnvParameterError, match=r"keep its parameter as self\.size"):
        Forgets(3).spec  # noqa: B018


def test_gymnasium_plays_it_and_says_that_no_actions_are_listed() -> None:
    adapter = pytest.importorskip("lamer_envs.gymnasium").LamerGymEnv(Count())
    _, info = adapter.reset(seed=4)
    assert info["admissible"] is None
    assert adapter.step("5")[4]["valid"]


# -- what to write next -----------------------------------------------------------------------------------------------


class Nothing(Env):
    pass


class Half(Env):
    rules = "r"
    action_format = "a"

    def reset(self, seed: int) -> State:
        return {}


def mistake(member: str, given: Any) -> Env:
    """`Count` with one member that gives something else."""
    body = property(lambda self: given) if member in ("rules", "spec") else (lambda self, *args: given)
    if member == "from_spec":
        body = classmethod(lambda cls, params: given)
    env = type("Count", (Count,), {member: body})()
    assert isinstance(env, Env)
    return env


@pytest.mark.filterwarnings("ignore:count has no")
@pytest.mark.parametrize(
    ("env", "says"),
    [
        (None, "check_env takes an object of a subclass of lamer_envs.Env, not NoneType"),
        ("count", "check_env takes an object of a subclass of lamer_envs.Env, not str"),
        (Nothing, r"Nothing is not whole: write `rules` next, the rules .*; then `action_format`, `reset`, `observe`"),
        (Half, r"Half is not whole: write `observe` next, observe\(self, state\) -> str.*; then `step`, `parse`"),
        (Count, r"takes an object, not the class: check_env\(Count\(..\)\)"),
        (mistake("rules", None), "`rules` must give str, not NoneType; is a `return` missing"),
        (mistake("spec", None), "`spec` must give str, not NoneType"),
        (mistake("from_spec", None), "`from_spec` must give an environment, not NoneType"),
        (mistake("reset", None), "`reset` must give dict, not NoneType; is a `return` missing"),
        (mistake("observe", None), "`observe` must give str, not NoneType"),
        (mistake("step", None), "`step` must give Step, not NoneType"),
        (mistake("step", ({}, "", 0.0, False, False, True)), "`step` must give Step, not tuple"),
        (mistake("parse", 3), "`parse` must give str or None, not int"),
        (mistake("instance", None), "`instance` must give str, not NoneType"),
        (mistake("admissible", ("1",)), "`admissible` must give list, not tuple"),
        (mistake("weak", None), "`weak` must give str, not NoneType"),
        (mistake("solve", "1"), "`solve` must give list or None, not str"),
    ],
)
def test_the_checker_says_what_to_write_by_name(env: Any, says: str) -> None:
    with pytest.raises(EnvCheckError) as caught:
        check_env(env, processes=False)
    message = str(caught.value)
    assert re.search(says, message), message
    assert "\n" not in message


@pytest.mark.filterwarnings("ignore:count has no")
@pytest.mark.parametrize(("where", "module"), [("in __main__", "__main__"), ("inside a function", __name__)])
def test_a_class_that_no_other_process_can_import_is_told_so(where: str, module: str) -> None:
    class Local(Count):
        pass

    Local.__module__ = module
    with pytest.raises(EnvCheckError) as caught:
        check_env(Local())
    assert f"cannot import Local, a class defined {where}: put the class in a module that can be" in str(caught.value)
    assert "or pass processes=False" in str(caught.value)
    check_env(Local(), processes=False)


@pytest.mark.filterwarnings("ignore:count has no")
def test_a_member_that_raises_is_named_with_its_error() -> None:
    class Count2(Count):
        def observe(self, state: State) -> str:
            return str(state["nowhere"])

    with pytest.raises(EnvCheckError, match="Count2: `observe` raised KeyError: 'nowhere'"):
        check_env(Count2(), processes=False)


@pytest.mark.parametrize(
    ("cls", "says"),
    [
        (Half, "environment 'mine' is not whole: Half still has to write observe, parse, step"),
        (type(mistake("from_spec", None)), "`from_spec` of 'mine' must return an environment, not NoneType"),
        (Count, "environment 'mine' calls itself 'count', which nothing is registered as"),
    ],
)
def test_a_plug_in_that_is_not_whole_is_refused_by_name(
    cls: type[Env], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Point(EntryPoint):
        def load(self) -> Any:
            return cls

    points = [Point("mine", "my.module:Mine", registry.GROUP)]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    registry._plugins.cache_clear()
    try:
        with pytest.raises(EnvParameterError, match=says):
            make("mine")
    finally:
        registry._plugins.cache_clear()
