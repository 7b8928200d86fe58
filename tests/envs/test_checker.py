"""`check_env` passes the environments that keep the protocol and names the promise that a broken one breaks."""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lamer_envs import EnvCheckError, State, Step, check_env, checker, make
from lamer_envs.minesweeper.env import Minesweeper


@pytest.mark.parametrize("spec", ["minesweeper", "minesweeper:4x4-3", "minesweeper:9x9-12", "sokoban", "sokoban:5x7-1"])
def test_the_built_in_environments_pass(spec: str) -> None:
    check_env(make(spec))


def test_sokoban_with_five_boxes_passes() -> None:
    check_env(make("sokoban", boxes=5), tasks=3, per_split=2)


class MutatesItsInput(Minesweeper):
    def step(self, state: State, action: str) -> Step:
        step = super().step(state, action)
        state["opened"] = step.state["opened"]
        return step


class RaisesOnBadText(Minesweeper):
    def step(self, state: State, action: str) -> Step:
        if not action:
            raise ValueError("empty")
        return super().step(state, action)


class ParseRaises(Minesweeper):
    def parse(self, answer: str) -> str | None:
        answer.encode("utf-8")
        return super().parse(answer)


class UsesGlobalRandom(Minesweeper):
    def reset(self, seed: int) -> State:
        return super().reset(random.randrange(10**9))


class HashDependent(Minesweeper):
    def reset(self, seed: int) -> State:
        return super().reset(hash(f"task {seed}") % 1000)


class ProcessDependent(Minesweeper):
    def observe(self, state: State) -> str:
        return f"{super().observe(state)} {os.getpid()}"


class NotJson(Minesweeper):
    def reset(self, seed: int) -> State:
        return {**super().reset(seed), "extra": (1, 2)}


class OffersOpenCells(Minesweeper):
    def admissible(self, state: State) -> list[str]:
        found = super().admissible(state)
        return found and [*found, "(99, 99)"]


class ExpertHitsMines(Minesweeper):
    def solve(self, state: State) -> list[str] | None:
        row, column = self.mine_cells(state)[0]
        return [f"({row}, {column})"]


class ChangesOnInvalid(Minesweeper):
    def step(self, state: State, action: str) -> Step:
        step = super().step(state, action)
        return step if step.valid else step._replace(state={**step.state, "invalid": True})


class SplitsBySeed(Minesweeper):
    def seeds(self, split: str) -> Iterator[int]:
        super().seeds(split)
        return iter(range(self.splits.index(split), 10**9, 3))


class ForgetsParameters(Minesweeper):
    @classmethod
    def from_spec(cls, params: str) -> ForgetsParameters:
        return cls()


class InstanceFollowsTheBoard(Minesweeper):
    def instance(self, state: State) -> str:
        return str(state["opened"])


class ChargesButDenies(Minesweeper):
    penalises_invalid = False


class SaysItIsCheap(Minesweeper):
    penalises_invalid = False
    invalid_is_cheap = True

    def step(self, state: State, action: str) -> Step:
        step = super().step(state, action)
        return step if step.valid else step._replace(reward=0.0)


class ProgressBeyondTheWhole(Minesweeper):
    def progress(self, state: State) -> float:
        return 1.5 * super().progress(state)


class ProgressIsWholeTooEarly(Minesweeper):
    def progress(self, state: State) -> float:
        return 1.0


class ProgressSometimes(Minesweeper):
    def progress(self, state: State) -> float | None:  # type: ignore[override]
        return None if state["hit"] is not None else super().progress(state)


class RewardsNothingThatCounts(Minesweeper):
    def step(self, state: State, action: str) -> Step:
        return super().step(state, action)._replace(reward=float("nan"))


class SaysNothing(Minesweeper):
    def outcome(self, before: State, action: str, step: Step) -> str:
        return ""


class IsAboutNothing(Minesweeper):
    def about(self, state: State) -> str:
        return ""


class OpensText(Minesweeper):
    def load(self, instance: Any) -> State:
        return super().load(json.loads(Path(instance).read_text()))


@pytest.mark.parametrize(
    ("cls", "params", "says"),
    [
        (MutatesItsInput, {}, "mutated the state"),
        (IsAboutNothing, {}, "`about` must give text that is not empty"),
        (RaisesOnBadText, {}, "`step` raised ValueError"),
        (ParseRaises, {}, "`parse` raised UnicodeEncodeError|`step` raised UnicodeEncodeError"),
        (UsesGlobalRandom, {}, "global random state"),
        (HashDependent, {}, "differently in another process"),
        (ProcessDependent, {}, "differently in another process"),
        (NotJson, {}, "not plain JSON"),
        (OffersOpenCells, {}, "admissible action .* is not valid"),
        (ChargesButDenies, {}, "`penalises_invalid`"),
        (SaysItIsCheap, {}, "`invalid_is_cheap` is for what `step` charges, and it charges nothing"),
        (ProgressBeyondTheWhole, {}, "`progress` must lie in"),
        (ProgressIsWholeTooEarly, {}, "`progress` must be 1 exactly when it is won, not 1.0 when won=False"),
        (ProgressSometimes, {}, "`progress` must be a number of each state, or None of all"),
        (ExpertHitsMines, {}, "does not win"),
        (ChangesOnInvalid, {}, "changed the state"),
        (SplitsBySeed, {}, "puts elsewhere"),
        (ForgetsParameters, {"size": 5}, "gives another environment"),
        (InstanceFollowsTheBoard, {}, "`instance` changed"),
        (SaysNothing, {}, "`outcome`"),
        (RewardsNothingThatCounts, {}, "must be a finite number, not nan"),
        (OpensText, {}, "`load` of text must raise InstanceError, not FileNotFoundError: .*pathlib.Path"),
    ],
)
def test_a_broken_environment_is_named_with_its_broken_promise(
    cls: type[Minesweeper], params: dict[str, Any], says: str
) -> None:
    with pytest.raises(EnvCheckError) as caught:
        check_env(cls(**params), tasks=6)
    assert re.search(says, str(caught.value))
    assert "\n" not in str(caught.value)


class ChargesLittle(Minesweeper):
    """Every mine costs two, an invalid turn one."""

    def step(self, state: State, action: str) -> Step:
        step = super().step(state, action)
        return step._replace(reward=-2.0) if step.valid and step.done and not step.success else step


def test_an_environment_where_not_to_play_pays_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="an invalid turn costs 1 and a legal one up to 2: not to play pays"):
        check_env(ChargesLittle(), tasks=6, processes=False)


class Talks(Minesweeper):
    def observe(self, state: State) -> str:
        print("looking")
        return super().observe(state)


def test_what_an_environment_prints_does_not_get_between_what_another_process_answers(
    capsys: pytest.CaptureFixture[str],
) -> None:
    check_env(Talks(), tasks=2)
    assert "looking" in capsys.readouterr().out


def test_another_process_that_takes_too_long_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checker, "_CHILD_TIMEOUT", 0.01)
    with pytest.raises(EnvCheckError, match=r"had not played 2 tasks after 0.01 s; check fewer tasks") as caught:
        check_env(Minesweeper(), tasks=2)
    assert "\n" not in str(caught.value)
