"""What a watcher is told while a trial is played: records without tokens, JSON-plain.

What must stay true: nothing is told that the policy could not see. The environment's state (a board's mines) is in
checkpoints, and in events only where a person watches.
"""

from __future__ import annotations

from lamer_graph.trial.states import EpisodeRecord, EpisodeState, Json


def turn_event(before: EpisodeState, update: EpisodeState) -> Json:
    """What a watcher is told of a turn: its record without tokens."""
    turn = update["turns"][-1]
    planned = {"plan": turn["plan"]} if "plan" in turn else {}
    return {
        "event": "turn",
        "episode": before["episode"],
        "turn": len(before["turns"]),
        "observation": turn["observation"],
        "action": turn["action"],
        "reward": turn["reward"],
        "valid": turn["valid"],
        "text": turn["text"],
        **planned,
        "outcome": update["outcomes"][-1],
        "done": update["done"],
        "success": update["success"],
    }


def episode_event(episode: int, record: EpisodeRecord) -> Json:
    """What a watcher is told when an episode is over."""
    return {
        "event": "episode",
        "episode": episode,
        "turns": len(record["turns"]),
        "success": record["success"],
        "reward": record["reward"],
        "truncated": record["truncated"],
    }


def reflection_event(episode: int, text: str) -> Json:
    """What a watcher is told of a reflection."""
    return {"event": "reflection", "episode": episode, "text": text}
