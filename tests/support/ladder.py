"""A plug-in environment: a ladder to climb, alone, with a solver, and with a weak player."""

from __future__ import annotations

import random

from lamer_envs import Env, State, Step


class Ladder(Env):
    """Climb three rungs by saying "up"; anything else is a step down, or the end. A plug-in with all offers."""

    name = "ladder"
    action_format = "up, wait or jump"
    rules = "Reach the third rung."
    max_turns = 5

    def reset(self, seed: int) -> State:
        return {"rung": seed % 2, "seed": seed, "over": False}

    def observe(self, state: State) -> str:
        return f"You stand on rung {state['rung']} of ladder {state['seed']}."

    def step(self, state: State, action: str) -> Step:
        said = self.parse(action)
        if said is None or state["over"]:
            return Step({**state}, self.observe(state), -1.0, state["over"], False, False)
        rung = state["rung"] + (said == "up")
        after = {**state, "rung": rung, "over": said == "jump" or rung == 3}
        return Step(after, self.observe(after), 10.0 * (rung == 3), after["over"], rung == 3, True)

    def parse(self, answer: str) -> str | None:
        return answer.strip() if answer.strip() in ("up", "wait", "jump") else None


class Solved(Ladder):
    name = "ladder-solved"

    def solve(self, state: State) -> list[str] | None:
        return ["up"] * (3 - state["rung"])


class Played(Ladder):
    name = "ladder-played"

    def weak(self, state: State, rng: random.Random) -> str:
        return rng.choice(("up", "wait", "jump"))
