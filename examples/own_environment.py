"""An environment of your own, whole: guess a hidden number, and be told "higher" or "lower".

    python examples/own_environment.py        # checks the contract, then plays two episodes; a few seconds

The contract is `lamer_envs.Env`: an immutable object of parameters and pure functions over a JSON state. `rules`,
`action_format`, `reset`, `observe`, `step` and `parse` are all that has to be written; the rest has defaults. The three
offers at the end let `check_env` try more. Registered under the entry-point group `lamer_graph.envs`, it has a name
everywhere: `lamer-graph collect --env guess:200`.

With 500 numbers and six guesses an episode rarely suffices; who remembers the earlier one halves on from there.
"""

from __future__ import annotations

import random
import re

from lamer_envs import Env, State, Step, check_env

WIN, GUESS, INVALID = 10.0, -0.1, -1.0
WORDS = {-1: "lower", 0: "found", 1: "higher"}


class Guess(Env):
    """`guess:200` hides one of 1 .. 200."""

    penalises_invalid = True
    tells_actions = True  # the rules do: a prompt need not list hundreds of numbers
    max_turns = 6
    action_format = "a number, for example 250"

    def __init__(self, numbers: int = 500) -> None:
        self.numbers = numbers

    @property
    def rules(self) -> str:
        return f"A number from 1 to {self.numbers} is hidden. Guess it; you are told whether it is higher or lower."

    def reset(self, seed: int) -> State:
        return {"hidden": random.Random(f"guess {seed}").randint(1, self.numbers), "said": []}

    def observe(self, state: State) -> str:
        return "\n".join(f"{guess}: {WORDS[sign]}" for guess, sign in state["said"]) or "Nothing guessed yet."

    def step(self, state: State, action: str) -> Step:
        number, over = self.parse(action), self._found(state)
        if number is None or over or not 1 <= int(number) <= self.numbers:
            return Step({**state}, self.observe(state), INVALID, over, over, False)
        sign = (state["hidden"] > int(number)) - (state["hidden"] < int(number))
        after = {**state, "said": [*state["said"], [int(number), sign]]}
        return Step(after, self.observe(after), GUESS if sign else WIN, sign == 0, sign == 0, True)

    def parse(self, answer: str) -> str | None:
        return str(int(answer)) if re.fullmatch(r"\s*[0-9]{1,4}\s*", answer, re.ASCII) else None

    @staticmethod
    def _found(state: State) -> bool:
        return state["said"][-1:] == [[state["hidden"], 0]]

    # -- offers -------------------------------------------------------------------------------------------------------

    def admissible(self, state: State) -> list[str]:
        return [] if self._found(state) else [str(number) for number in range(1, self.numbers + 1)]

    def solve(self, state: State) -> list[str] | None:
        return [str(state["hidden"])]

    def weak(self, state: State, rng: random.Random) -> str:
        low = max((guess + 1 for guess, sign in state["said"] if sign > 0), default=1)
        high = min((guess - 1 for guess, sign in state["said"] if sign < 0), default=self.numbers)
        return str(rng.randint(low, high))


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
        print(f"episode {episode}: {'; '.join(env.observe(state).splitlines())}")


if __name__ == "__main__":
    main()
