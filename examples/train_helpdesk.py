"""Training on tasks of one's own: a small policy learns to ask first, remember, and be right the second time.

    python examples/train_helpdesk.py --out runs/helpdesk      # a quarter of an hour on two cores

1. A clumsy player plays `helpdesk:app` through its own graph, and what it was asked and said is what a policy of 0.7 M
   parameters is fitted to: it knows the form of calls, answers and reflections, and little of what is worth doing.
2. `lamer_trainers.train` plays groups of trials with that policy, credits grades across the attempts of a trial
   (meta-RL) and updates it; `--rl` trains on single attempts instead.
3. Both are read on tickets that neither has seen: pass@1..3 with 95 % intervals, and once more without memory.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import helpdesk
from lamer_graph import CollectConfig, LocalPolicy, collect, evaluate
from lamer_graph.apps.lessons import LESSONS, OWN, REVIEW
from lamer_graph.apps.tool_text import RESULT
from lamer_graph.policies.base import Policy
from lamer_graph.policies.tool_form import CALL, CALLED
from lamer_graph.runlog import read_trials
from lamer_graph.types import Completion, Message, Sampling
from lamer_trainers.loop.curves import draw, read_metrics
from lamer_trainers.loop.train import train
from lamer_trainers.runfile import load_run
from lamer_trainers.warmstart.fitting import FitConfig, fit
from lamer_trainers.warmstart.teachers import Row
from lamer_trainers.warmstart.tiny import CHAT_TEMPLATE, Piece, build_model, build_tokenizer

PASSES = 5
"""How often the rows of the warm start are shown."""
CARE = 0.85
"""How often the player of the warm start heeds a lesson, and how much of what it knows it writes into one. What it does
next it draws: to ask, to open a cabinet, to guess."""
KNOWN = ("odd", "even", "low", "high")


def called(name: str, arguments: str = "{}") -> str:
    """A call of a tool, as the policy writes it."""
    return f'{CALL}{{"name": "{name}", "arguments": {arguments}}}{CALLED}'


class Clumsy(Policy):
    """A player of middling sense that knows what stands in its prompt and nothing else."""

    stops = True

    async def generate(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        rng = random.Random(sampling.seed)
        text = _reflection(messages, rng) if messages[0]["content"].startswith(REVIEW) else _move(messages, rng)
        return Completion(text, [], [], [], "clumsy", "stop")


def facts(text: str) -> tuple[set[str], set[int]]:
    """What a text says of the key: sides and halves, and cabinets where it is not."""
    not_there = {int(number) for number in re.findall(r"not (\d)", text)}
    opened = re.findall(
        r'"cabinet": (\d)\}\}</tool_call>.*?\n\n?The tool open_cabinet answers:\nempty', text, re.DOTALL
    )
    return {word for word in KNOWN if re.search(rf"\b{word}\b", text)}, not_there | {int(one) for one in opened}


def cabinets(known: set[str], not_there: set[int]) -> list[int]:
    """Where the key can be."""
    fits = {"odd": lambda n: n % 2, "even": lambda n: not n % 2, "low": lambda n: n <= 4, "high": lambda n: n > 4}
    left = [n for n in range(1, helpdesk.CABINETS + 1) if n not in not_there]
    return [n for n in left if all(fits[word](n) for word in known)]


def _move(messages: Sequence[Message], rng: random.Random) -> str:
    lessons = messages[0]["content"].partition(LESSONS)[2]
    lessons = "\n".join(line for line in lessons.splitlines() if line.startswith(">"))
    turns = [message["content"] for message in messages[1:]]
    calls = sum(text.startswith(CALL) for text in turns)
    played = "\n\n".join(turns)
    if "answers:\nthe key" in played:
        return f"cabinet {re.findall(r'cabinet.: (.)', played)[-1]}"
    # What one has found out oneself is heeded; lessons are, with care.
    heeded = lessons if rng.random() < CARE else ""
    results = "\n".join(re.findall(r"answers:\n(\w+)", played))
    known, not_there = facts(f"{heeded}\n{results}")
    left = cabinets(known, not_there | facts(played)[1]) or [*range(1, helpdesk.CABINETS + 1)]
    moves = [called("side"), called("half"), called("open_cabinet", f'{{"cabinet": {rng.choice(left)}}}')]
    if calls >= 2 or len(left) == 1 or rng.random() < 0.25:
        return f"cabinet {rng.choice(left)}"
    return rng.choice(moves)


def _reflection(messages: Sequence[Message], rng: random.Random) -> str:
    """What the transcript shows, each fact with some chance of being left out."""
    told = messages[1]["content"]
    before, _, attempt = told.partition("## Attempt")
    known = facts(before)[0] | set(re.findall(r"tool (?:side|half): (\w+)", attempt))
    wrong = set(re.findall(r"not (\d)", before)) | set(re.findall(r"assistant: cabinet (\d)", attempt))
    parts = [word for word in KNOWN if word in known] + [f"not {number}" for number in sorted(wrong)]
    kept = [part for part in parts if rng.random() < CARE] or ["nothing"]
    return f"<remark>{', '.join(kept)}</remark>"


def pieces() -> list[Piece]:
    """Texts that are one token each: whole sentences of ours, and words of the application."""
    tools = asyncio.run(_rules())
    ours = [REVIEW, LESSONS, tools, "\n\n", "## The task\n> ", "## What was known before\n> ", "\n\n## Attempt "]
    ours += [f"{OWN.format(attempt=n)}\n> " for n in (1, 2)] + [f"{n} of 3\n> " for n in (1, 2)]
    ours += ["\n\n## Its grade\n> ", "wrong", "Ticket ", ": where is the key?", "The attempt ended in an error. "]
    ours += [RESULT.format(name=name, text="") for name in ("side", "half", "open_cabinet")]
    ours += [called("side"), called("half"), f'{CALL}{{"name": "open_cabinet", "arguments": {{"cabinet": ']
    ours += ["}}" + CALLED, "assistant: ", "assistant calls ", "side({})", "half({})", 'open_cabinet({"cabinet":']
    ours += ["tool side: ", "tool half: ", "tool open_cabinet: ", "\n> ", "empty", "the key", "nothing"]
    # Tokens that share parts begin with similar embeddings: what a cabinet is need not be learnt from examples alone.
    parts = {n: (f"cabinet {n}", KNOWN[1 - n % 2], KNOWN[2 + (n > 4)]) for n in range(1, helpdesk.CABINETS + 1)}
    cells = [Piece(f"{before}{n}", parts[n]) for n in parts for before in ("", "cabinet ")]
    cells += [Piece(f"not {n}", (f"cabinet {n}", "not")) for n in parts]
    words = [Piece(f"{before}{word}", (word,)) for word in KNOWN for before in ("", ", ")]
    return [*map(Piece, ours), *cells, *words]


async def _rules() -> str:
    """The system's words, as the application gives them."""
    heard: list[str] = []

    class Listening(Clumsy):
        async def generate(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
            heard.append(messages[0]["content"])
            return Completion("cabinet 1", [], [], [], "listening", "stop")

    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        config = CollectConfig(env=helpdesk.app.spec, tasks=1, max_episodes=1, contents="none")
        await collect(config, Listening(), Path(folder) / "run")
    return heard[0].removeprefix("Find the key.\n\n")


def rows_of(folder: Path) -> Iterator[Row]:
    """What the player was asked and said, call by call."""
    for trial in read_trials(folder):
        made = [turn for episode in trial["episodes"] for turn in episode["turns"]] + trial["reflections"]
        for call in made:
            asked = [Message(role=role, content=trial["texts"][at]) for role, at in call["call"]["messages"]]
            yield Row(asked, call["text"] if "episode" not in call else f"<remark>{call['text']}</remark>")


def warm_start(out: Path, tasks: int, seed: int) -> Path:
    """A policy that knows the forms, in `out`/warm-start."""
    folder = out / "warm-start"
    if (folder / "model.safetensors").exists():
        return folder
    began = time.perf_counter()
    config = CollectConfig(env=helpdesk.app.spec, tasks=tasks, seed=seed, contents="reflection")
    done = asyncio.run(collect(config, Clumsy(), out / "clumsy", resume=True))
    data = list(rows_of(out / "clumsy"))
    print(f"{done.finished} trials of the clumsy player, {len(data):,} calls, {time.perf_counter() - began:.0f} s")
    data = [row for _ in range(PASSES) for row in random.Random(seed).sample(data, len(data))]
    texts = pieces()
    tokenizer = build_tokenizer(texts)
    # The shipped policies have the rules in their weights; here the system's words hold the lessons.
    tokenizer.chat_template = CHAT_TEMPLATE.replace("== 'user'", "in ('system', 'user')")
    model = build_model(tokenizer, texts, seed=seed, copying=0.5)
    fit(model, tokenizer, data, FitConfig(learning_rate=2e-3), seed=seed, progress=print)
    tokenizer.save_pretrained(folder)
    (folder / "lamer.json").write_text(json.dumps({"env": helpdesk.app.spec, "prompt_style": "standard"}) + "\n")
    model.save_pretrained(folder)
    print(f"warm start of {model.num_parameters():,} parameters in {time.perf_counter() - began:.0f} s: {folder}")
    return folder


def read(policy_dir: Path, folder: Path, tasks: int, skip: int, contents: Any) -> list[Any]:
    """pass@1..3 on tickets of the test split."""
    told: Any = {"split": "test", "tasks": tasks, "skip": skip, "max_tokens": 40}
    config = CollectConfig(env=helpdesk.app.spec, contents=contents, **told)
    policy = LocalPolicy(policy_dir)
    try:
        reading, _ = asyncio.run(evaluate(config, policy, folder, resume=True))
    finally:
        policy.close()
    found: list[Any] = reading.to_json()["pass_at"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/helpdesk"), help="folder of the run; goes on with it")
    parser.add_argument("--updates", type=int, default=60)
    parser.add_argument("--tasks", type=int, default=400, help="tickets of the readings")
    parser.add_argument("--skip", type=int, default=0, help="tickets before those, which other readings were of")
    parser.add_argument("--shown", type=int, default=1500, help="tickets of the clumsy player")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rl", action="store_true", help="single attempts, without memory, in place of meta-RL")
    given = parser.parse_args()
    began = time.perf_counter()
    start = warm_start(given.out, given.shown, given.seed)
    run = load_run(
        preset="minesweeper-cpu",
        changes=[
            f"policy={start}",
            f"collect.env={helpdesk.app.spec}",
            "collect.prompt_style=standard",
            "collect.max_turns=null",
            "collect.max_tokens=40",
            "collect.tasks=16",
            "collect.trials=8",
            f"collect.seed={given.seed}",
            f"optimise.seed={given.seed}",
            f"optimise.updates={given.updates}",
            "validation=null",
            *(("collect.max_episodes=1", "collect.contents=none", "collect.trials=24") if given.rl else ()),
        ],
    )
    name = "rl" if given.rl else "meta"
    folder = given.out / name
    done = train(run, folder, resume=True, progress=lambda line: print(_line(line), flush=True))
    draw({name: read_metrics(folder / "metrics.jsonl")}, folder / "curves")
    table: dict[str, Any] = {}
    for what, policy in (("warm start", start), (name, done.folder)):
        for contents in ("reflection", "none"):
            place = given.out / "readings" / f"{what}-{contents}".replace(" ", "-")
            table[f"{what}, memory {contents}"] = read(policy, place, given.tasks, given.skip, contents)
    for what, points in table.items():
        print(f"{what:32}" + "  ".join(f"{p['value']:.3f} [{p['low']:.3f}, {p['high']:.3f}]" for p in points))
    (given.out / f"{name}.json").write_text(json.dumps(table, indent=2) + "\n")
    print(f"{time.perf_counter() - began:.0f} s; curves: {folder}/curves.png")


def _line(line: dict[str, Any]) -> str:
    solved = "  ".join(f"{key[6:]} {value:.2f}" for key, value in line.items() if key.startswith("batch/pass@"))
    return f"update {line['update']:>3}  {solved}  {line['time/update']:.1f} s"


if __name__ == "__main__":
    main()
