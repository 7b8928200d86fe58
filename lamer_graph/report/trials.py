"""What a page shows of one trial: a pure function of its line in the log, and of what others know about it.

What must stay true: every text is bounded and says how much of it was left out; nothing is shown as known that the log
does not say (a prompt's dropped pieces are counted there, a memory's text is where its writer logged it).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from lamer_graph.report.index import finite
from lamer_graph.report.pictures import Album
from lamer_graph.runlog.lines import APPLICATION
from lamer_graph.trial.quoting import restore
from lamer_graph.trial.states import Json

MAX_TEXT = 20_000
"""Characters of one text that are shown; what a policy wrote may have a million."""
MAX_TRIAL = 1_500_000
"""Characters of all texts of a trial."""
LITTLE = 300
"""Characters of each text beyond that."""
MAX_TOKENS = 4_000
MAX_RECORDS = 60
MAX_TURNS = 1_000
"""Turns of an episode that are shown."""

Text = str | list[Any]
"""A text, or [its beginning, how many characters are left out]."""
Place = tuple[str, str, int, int]
"""(trial id, "turn" or "reflection", episode, turn); of a reflection the turn is 0."""
Worth = tuple[float, float | None]
"""A call's return, and its advantage where others were sampled on the same task."""


class Source(NamedTuple):
    """Where a remembered text was written: the trial's row if it is among the runs, and the text if it is known."""

    run: int | None
    row: int | None
    text: str | None


class Known(NamedTuple):
    """What is known of a trial beyond its line."""

    album: Album
    worth: Mapping[Place, Worth] = {}
    pieces: Callable[[Sequence[int]], list[str]] | None = None
    written: Callable[[str, str, int], Source] = lambda trial_id, kind, episode: Source(None, None, None)
    shown_turns: Callable[[int], int] = lambda turn: turn
    """How many past turns a prompt has that asks for this turn, before any is dropped."""


class _Budget:
    def __init__(self) -> None:
        self._left = MAX_TRIAL

    def text(self, text: str) -> Text:
        most = min(MAX_TEXT, max(self._left, LITTLE))
        self._left -= min(len(text), most)
        return text if len(text) <= most else [text[:most], len(text) - most]


def trial_view(trial: Json, known: Known) -> Json:
    """A trial as the page shows it. Raises KeyError and the like for one that is malformed."""
    budget = _Budget()
    escaped = trial.get("escaped", ())
    texts = [budget.text(restore(text, escaped) if escaped else text) for text in trial["texts"]]
    reflections = {made["episode"]: made for made in trial["reflections"]}
    reads = {read["episode"]: read for read in trial["memory_reads"]}
    episodes = []
    for number, episode in enumerate(trial["episodes"]):
        read = reads.get(number, {"keys": []})
        made = reflections.get(number)
        episodes.append(
            {
                "success": episode["success"],
                "reward": finite(episode["reward"]),
                "truncated": episode["truncated"],
                "turns": [
                    _turn(trial, number, at, known, budget) for at in range(min(len(episode["turns"]), MAX_TURNS))
                ],
                "more_turns": max(0, len(episode["turns"]) - MAX_TURNS),
                "last": known.album.places[number][len(episode["turns"])],
                "memory": [_record(trial, key, known, budget) for key in read["keys"][:MAX_RECORDS]],
                "more_memory": max(0, len(read["keys"]) - MAX_RECORDS),
                "held": [_record(trial, key, known, budget) for key in read.get("held", ())[:MAX_RECORDS]],
                "reflection": None if made is None else _reflection(trial, made, known, budget),
            }
        )
    timings = trial["timings"]
    return {
        "id": trial["trial_id"],
        "task": {**trial["task"], "instance": _instance(trial["task"], budget)},
        "trial": trial["trial"],
        "application": trial["task"]["env"].startswith((APPLICATION, "task:")),
        "memory": trial["memory"],
        "sampling": trial["sampling"],
        "success": trial["success"],
        "error": None if trial["error"] is None else {**trial["error"], "message": budget.text(_message(trial))},
        "started": timings["started"],
        "seconds": finite(timings["seconds"]),
        "policy_seconds": finite(timings["policy_seconds"]),
        "extra": trial.get("extra") or None,
        "progress": [finite(value) for value in trial.get("progress") or ()],
        "branch": _branch(trial, known),
        "texts": texts,
        "pictures": known.album.drawings,
        "episodes": episodes,
        "has_pieces": known.pieces is not None,
    }


def _branch(trial: Json, known: Known) -> Json | None:
    """Where a re-roll was begun, with that trial's row if it is among the runs."""
    branch = trial.get("branch")
    if branch is None:
        return None
    source = known.written(branch["trial_id"], "", 0)
    row = None if source.row is None else [source.run, source.row]
    return {"episode": branch["episode"], "turn": branch["turn"], "trial": row}


def _instance(task: Json, budget: _Budget) -> Text | None:
    given = task.get("instance")
    return None if given is None else budget.text(str(given))


def _message(trial: Json) -> str:
    return str(trial["error"]["message"])


def _turn(trial: Json, episode: int, at: int, known: Known, budget: _Budget) -> Json:
    turn = trial["episodes"][episode]["turns"][at]
    return {
        "observation": budget.text(turn["observation"]),
        "picture": known.album.places[episode][at],
        "action": None if turn["action"] is None else budget.text(turn["action"]),
        "valid": turn["valid"],
        "reward": finite(turn["reward"]),
        "text": budget.text(turn["text"]),
        "call": _call(turn["call"], known, budget, known.shown_turns(at)),
        **_worth(known.worth.get((trial["trial_id"], "turn", episode, at))),
    }


def _reflection(trial: Json, made: Json, known: Known, budget: _Budget) -> Json:
    number = made["episode"]
    turns = len(trial["episodes"][number]["turns"]) if number < len(trial["episodes"]) else 0
    return {
        "text": budget.text(made["text"]),
        "valid": made["valid"],
        "call": _call(made["call"], known, budget, turns),
        **_worth(known.worth.get((trial["trial_id"], "reflection", number, 0))),
    }


def _worth(worth: Worth | None) -> Json:
    value, advantage = worth if worth is not None else (None, None)
    return {
        "return": None if value is None else finite(value),
        "advantage": None if advantage is None else finite(advantage),
    }


def _call(call: Json | None, known: Known, budget: _Budget, turns: int) -> Json | None:
    if call is None:
        return None
    ids = call["token_ids"][:MAX_TOKENS]
    pieces = [budget.text(piece) for piece in known.pieces(ids)] if known.pieces is not None else None
    return {
        "messages": call["messages"],
        "version": call["policy_version"],
        "finish": call["finish_reason"],
        "seed": None if call["seed"] is None else str(call["seed"]),  # 64 bits do not fit a browser's number
        "dropped": left_out(call["dropped"], turns),
        "seconds": finite(call["seconds"]),
        "prompt_tokens": len(call["prompt_token_ids"]),
        "ids": ids,
        "more_tokens": len(call["token_ids"]) - len(ids),
        "logprobs": [_logprob(value) for value in call["logprobs"][:MAX_TOKENS]],
        "pieces": pieces,
    }


def _logprob(value: Any) -> float | None:
    return round(float(value), 3) if isinstance(value, int | float) and math.isfinite(value) else None


def left_out(dropped: int, turns: int) -> Json | None:
    """What was dropped from a prompt that had `turns` past turns to show, in the order in which a prompt is cut: its
    oldest turns, then the oldest of its memory (`PromptBuilder.act`). None where nothing was."""
    if not dropped:
        return None
    return {"pieces": dropped, "turns": min(dropped, turns), "memories": max(0, dropped - turns)}


def _record(trial: Json, key: str, known: Known, budget: _Budget) -> Json:
    """A record that was read, with its writer: keys are "trial id/episode/kind" (`lamer_graph.trial.keeping`)."""
    writer, _, kind = key.rpartition("/")
    writer, _, number = writer.rpartition("/")
    if not (writer and number.isdecimal()):
        return {"key": key[:LITTLE], "kind": "record", "episode": None, "own": False, "text": None, "trial": None}
    episode, own = int(number[:9]), writer == trial["trial_id"]
    if own:
        source = Source(None, None, _own_text(trial, kind, episode))
    else:
        source = known.written(writer, kind, episode)
    return {
        "key": key[:LITTLE],
        "kind": kind[:LITTLE],
        "episode": episode,
        "own": own,
        "text": None if source.text is None else budget.text(source.text),
        "trial": None if source.row is None else [source.run, source.row],
    }


def _own_text(trial: Json, kind: str, episode: int) -> str | None:
    if kind != "reflection":
        return None
    return next((made["text"] for made in trial["reflections"] if made["episode"] == episode), None)
