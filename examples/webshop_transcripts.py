"""Three shopping sessions for one wish in WebShop: the right purchase, a near-miss and a wrong one, with their scores.

    python examples/webshop_transcripts.py [GOAL]

Takes a second; needs no model. The near-miss is a product of the same family that differs from the wanted one in a
single thing, and the wrong purchase is a product of another kind, bought after a careless search.
"""

from __future__ import annotations

import sys

from lamer_envs import State
from lamer_envs.webshop.catalogue import FAMILY
from lamer_envs.webshop.env import Webshop
from lamer_envs.webshop.players import click, right_options


def session(title: str, env: Webshop, start: State, actions: list[str]) -> None:
    """Play the actions and print every page as an agent gets it, then the purchase's score with its reasons."""
    print(f"\n===== {title} =====\n")
    state, told = start, ""
    for turn, action in enumerate(actions, 1):
        print(f"--- turn {turn} of at most {env.max_turns}\n{env.compact(state)}\n> {action}")
        if action == "click[buy now]":
            told = env.score(state).explain()
        step = env.step(state, action)
        if not step.valid:
            raise SystemExit(f"{action} is not possible here")
        state = step.state
    print(f"--- the end\n{env.observe(state)}\nreward {step.reward:g}, success {step.success}\n{told}")


def near_miss(env: Webshop, start: State) -> list[str]:
    """A purchase of the family's product that scores best among those that do not score 1.0."""
    goal, catalogue = env.goal(start), env.shop.catalogue
    own = catalogue.find(goal["asin"])
    assert own is not None
    found: list[tuple[float, list[str]]] = []
    for at in range(own // FAMILY * FAMILY, own // FAMILY * FAMILY + FAMILY):
        item = catalogue.product(at)
        chosen = [click(value) for value in right_options(item, goal).values()]
        actions = [f"search[{item.title.lower()}]", click(item.asin), click("features"), click("< prev"), *chosen]
        state = start
        for action in actions:
            state = env.step(state, action).state
        if (total := env.score(state).total) < 1:
            found.append((total, [*actions, click("buy now")]))
    if not found:
        raise SystemExit("every product of this family will do; try another goal")
    return max(found)[1]


def main() -> None:
    env = Webshop(reward="score")
    start = env.load({"goal": int(sys.argv[1]) if len(sys.argv) > 1 else 11})
    goal = env.goal(start)
    print(f"Wish: {goal['instruction_text']}")
    print(f"asked attributes {goal['attributes']}, options {goal['goal_options']}, at most ${goal['price_upper']:.2f}")
    right = env.solve(start)
    assert right is not None
    session("the right purchase", env, start, right)
    session("a near-miss", env, start, near_miss(env, start))
    found = (env.shop.catalogue.product(at) for at in env.shop.search("gift")[:10])
    other = next(item for item in found if item.query != goal["query"])
    looking = ["search[gift]", click(other.asin), click("description"), click("< prev")]
    session("a wrong purchase", env, start, [*looking, click("buy now")])


if __name__ == "__main__":
    main()
