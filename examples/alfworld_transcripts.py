"""One expert game of ALFWorld per task type, and how an explorer without foreknowledge does on the same task.

    python examples/alfworld_transcripts.py              # a second; six games of 4 to 10 commands
    python examples/alfworld_transcripts.py --seed 3 --types heat+pick2 --pages

The expert knows the whole household; the explorer knows what it has seen. With `--pages` every page is printed whole,
as the policy reads it; without, only the first one and what each command brought to light.
"""

from __future__ import annotations

import argparse

from lamer_envs import Env, State, make
from lamer_envs.alfworld.experts import Explorer
from lamer_envs.alfworld.house import KINDS, house

MAX_COMMANDS = 100


def expert_commands(env: Env, state: State) -> list[str]:
    """The plan of full knowledge; drawn households always have one."""
    return env.solve(state) or []


def explorer_commands(env: Env, state: State) -> list[str]:
    """What the explorer plays until it wins."""
    player, commands = Explorer(), list[str]()
    while not state["won"] and len(commands) < MAX_COMMANDS:
        commands.append(player.act(house(state["house"]), state))
        state = env.step(state, commands[-1]).state
    return commands


def transcript(env: Env, state: State, commands: list[str], pages: bool) -> str:
    """The first page and each turn of a game."""
    lines = [env.observe(state), ""]
    for number, command in enumerate(commands, start=1):
        step = env.step(state, command)
        lines.append(f"{number:>3}. {env.outcome(state, command, step)}")
        if pages:
            lines += ["", env.observe(step.state), ""]
        state = step.state
    lines.append(f"     success: {step.success}, reward {step.reward:g}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--types", default="+".join(KINDS), help="task types, joined by +")
    parser.add_argument("--pages", action="store_true", help="print every page whole")
    arguments = parser.parse_args()
    for kind in make("alfworld", types=arguments.types).params["types"]:
        env = make("alfworld", types=kind)
        state = env.reset(arguments.seed)
        print(f"=== {kind} (alfworld:{kind}, seed {arguments.seed}) " + "=" * 40)
        print(transcript(env, state, expert_commands(env, state), arguments.pages))
        print(f"     the explorer needs {len(explorer_commands(env, state))} commands\n")


if __name__ == "__main__":
    main()
