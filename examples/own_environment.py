"""An environment of your own, whole: guess a hidden number, and be told "higher" or "lower".

    python examples/own_environment.py        # checks the contract, then plays two episodes; a few seconds

The contract is `lamer_envs.Env`: an immutable object of parameters and pure functions over a JSON state. Registered
under the entry-point group `lamer_graph.envs`, it has a name everywhere: `lamer-graph collect --env guess:500`.
With 500 numbers and six guesses an episode rarely suffices; who remembers the earlier one halves on from there.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lamer_envs import Env, EnvParameterError, InstanceError, State, Step, check_env
from lamer_envs.base import MAX_ACTION_CHARS

WIN, GUESS, INVALID = 10.0, -0.1, -1.0


class Guess(Env):
    """`guess:500` hides one of 1 .. 500."""

    name = "guess"
    penalises_invalid = True

    def __init__(self, numbers: int = 500) -> None:
        if not 100 <= numbers <= 1000:
            raise EnvParameterError(f"guess needs 100 to 1000 numbers, not {numbers}; write guess:500")
        self.numbers = numbers
        self.max_turns = 6

    @property
    def spec(self) -> str:
        return f"guess:{self.numbers}"

    @classmethod
    def from_spec(cls, params: str) -> Guess:
        if not re.fullmatch(r"[0-9]{0,4}", params):
            raise EnvParameterError(f"'{params[:40]}' is no number of numbers; write guess:500")
        return cls(int(params)) if params else cls()

    @property
    def rules(self) -> str:
        return f"A number from 1 to {self.numbers} is hidden. Guess it; you are told whether it is higher or lower."

    @property
    def action_format(self) -> str:
        return "a number, for example 250"

    def reset(self, seed: int) -> State:
        return {"hidden": random.Random(f"guess {seed}").randint(1, self.numbers), "said": []}

    def load(self, instance: Mapping[str, Any] | str) -> State:
        data = json.loads(Path(instance).read_text()) if isinstance(instance, str) else instance
        hidden = data.get("hidden")
        if not isinstance(hidden, int) or not 1 <= hidden <= self.numbers:
            raise InstanceError(f'an instance of guess is {{"hidden": 1 to {self.numbers}}}')
        return {"hidden": hidden, "said": []}

    def instance(self, state: State) -> str:
        return f"{self.numbers}/{state['hidden']}"

    def observe(self, state: State) -> str:
        words = {-1: "lower", 0: "found", 1: "higher"}
        return "\n".join(f"{guess}: {words[sign]}" for guess, sign in state["said"]) or "Nothing guessed yet."

    def compact(self, state: State) -> str:
        return " ".join(f"{guess}{'<=>'[sign + 1]}" for guess, sign in state["said"]) or "-"

    def outcome(self, before: State, action: str, step: Step) -> str:
        return self.observe(step.state).splitlines()[-1] if step.valid else "not a number"

    def parse(self, answer: str) -> str | None:
        number = answer.strip()
        return str(int(number)) if re.fullmatch(r"[0-9]{1,4}", number) else None

    def admissible(self, state: State) -> list[str]:
        return [] if self._found(state) else [str(number) for number in range(1, self.numbers + 1)]

    def step(self, state: State, action: str) -> Step:
        number = self.parse(action[:MAX_ACTION_CHARS])
        if number is None or number not in self.admissible(state):
            return Step({**state}, self.observe(state), INVALID, self._found(state), False, False)
        sign = (state["hidden"] > int(number)) - (state["hidden"] < int(number))
        after = {**state, "said": [*state["said"], [int(number), sign]]}
        return Step(after, self.observe(after), GUESS if sign else WIN, sign == 0, sign == 0, True)

    def solve(self, state: State) -> list[str] | None:
        return [str(state["hidden"])]

    def weak(self, state: State, rng: random.Random) -> str:
        low = max((guess + 1 for guess, sign in state["said"] if sign > 0), default=1)
        high = min((guess - 1 for guess, sign in state["said"] if sign < 0), default=self.numbers)
        return str(rng.randint(low, high))

    def render(self, state: State) -> str:
        return f"[dim]1 to {self.numbers}[/dim]  {self.compact(state)}"

    @staticmethod
    def _found(state: State) -> bool:
        return bool(state["said"]) and state["said"][-1][1] == 0


def main() -> None:
    env = Guess()
    check_env(env, processes=False)  # other processes cannot import a script; an installed package needs no `processes`
    print(f"{env.spec} keeps the contract of lamer_envs.Env")
    rng = random.Random(0)
    for episode in (1, 2):
        state, done, turns = env.reset(seed=7), False, 0
        while not done and turns < env.max_turns:
            state, _, _, done, _, _ = env.step(state, env.weak(state, rng))
            turns += 1
        print(f"episode {episode}: {env.compact(state)}")


if __name__ == "__main__":
    main()
