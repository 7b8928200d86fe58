"""One trial as pure steps over a JSON-plain state: what every driver (LangGraph, bulk collection) runs.

What must stay true: each function reads a state and returns an update, touches no network, disk or clock, and never
mutates what it was given; everything between two policy calls is therefore repeatable after a crash. Text enters a
state through `text.plain` only, so every checkpointer, store and log can hold it. The drivers own the order
`recall -> begin -> act.. -> (end | reflect) -> remember -> recall` and the I/O.

Episodes count from 0 in states, records and logs, and from 1 in prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from lamer_envs.base import MAX_ACTION_CHARS, State
from lamer_graph.errors import ConfigError
from lamer_graph.policies.thoughts import as_thought
from lamer_graph.text import plain, plain_json
from lamer_graph.trial.answers import ACTION_TAG, REMARK_TAG, extract, extract_plan, extract_remark, reasoning
from lamer_graph.trial.harness import Harness
from lamer_graph.trial.keeping import Recalled
from lamer_graph.trial.prompts import Remembered, Turn, View
from lamer_graph.trial.states import EpisodeRecord, EpisodeState, Json, TrialState, TurnRecord
from lamer_graph.trial.strategies import window_of
from lamer_graph.trial.tasks import checked, start_of, task_id_of, trial_id_of
from lamer_graph.trial.whose import owner
from lamer_graph.types import Completion, Message, Sampling, stable_seed
from lamer_memory import MemoryRecord
from lamer_memory.base import Kind, Namespace
from lamer_memory.recall import ABOUT_KEY, TRIAL_KEY, kinds, make_record, trial_namespace

MAX_TEXT_CHARS = 20_000
"""Longest answer text that is kept in states and logs; token ids are always kept whole."""


# -- opening ----------------------------------------------------------------------------------------------------------


def nth_of_thread(opened: TrialState, before: TrialState, thread: str) -> TrialState:
    """`opened` as a trial of its own on a thread that may have played others, up to the state `before`."""
    number = before.get("number", int("trial_id" in before)) + 1
    name = trial_id_of(opened["task_id"], opened["trial"], thread, number)
    return cast(TrialState, {**opened, "number": number, "trial_id": name})


def open_trial(
    h: Harness,
    task: Mapping[str, Any],
    *,
    namespace: str | Sequence[str] = (),
    unique: str = "",
    seed: int | None = None,
    started: float = 0.0,
) -> TrialState:
    """The first state of a trial of `task`: `{"seed": int}` or `{"instance": ..}`, optionally `"trial": int`.

    `namespace` says whose memory it is (see `whose`), which may stay open only where no record outlives its trial.
    `seed` is the run's (the sampling's own if None): every call's seed derives from it and from (task, trial, episode,
    turn). `unique` tells apart trials that share a task and index (threads of different users); it is part of the
    trial's id but not of its sampling seeds. Raises ConfigError for a malformed task, InstanceError for an instance.
    """
    task = checked(task)
    index = task.get("trial", 0)
    start = start_of(h.env, task)
    task_id = task_id_of(h.env, task)
    return TrialState(
        task=None,
        playing=task,
        namespace=list(owner_of(h, namespace)),
        task_id=task_id,
        trial_id=trial_id_of(task_id, index, unique),
        trial=index,
        seed=(h.sampling.seed or 0) if seed is None else seed,
        started=started,
        start=start,
        memory=[],
        reads=[],
        writes=[],
        records=[],
        episodes=[],
        calls=[],
        outcomes=[],
        progress=progress_of(h, start),
        last_observation="",
        reflections=[],
        reflection=None,
        reflection_calls=[],
        success=False,
    )


def progress_of(h: Harness, state: State) -> list[float]:
    """What the environment says of a state; nothing where it states no progress."""
    told = h.env.progress(state)
    return [] if told is None else [float(told)]


# -- recall -----------------------------------------------------------------------------------------------------------


def recalled(h: Harness, s: TrialState, found: Recalled) -> Json:
    """The update that makes what was `found` what the coming episode sees, or the newest of it as the strategy says."""
    if (window := window_of(h.prompts.strategy)) is not None:
        found = found._replace(records=found.records[-window:])
    read = found.to_json(len(s["episodes"]))
    return {"memory": [plain_json(record.to_json()) for record in found.records], "reads": [*s["reads"], read]}


NOTHING = Recalled([], [], 0.0)
"""What an agent without memory recalls."""


def looks(h: Harness, s: TrialState) -> str:
    """What the trial's task is about, as it first looks: what other tasks' records are compared with."""
    return plain(h.env.about(s["start"]))


def owner_of(h: Harness, chosen: str | Sequence[str] | None) -> Namespace:
    """Whose memory a trial plays with. Raises ConfigError where nobody has said so and it matters."""
    return owner(
        chosen, h.outlives, f"memory '{h.memory.contents}' of scope '{h.memory.scope}' in {type(h.backend).__name__}"
    )


def namespace_of(h: Harness, s: TrialState) -> Namespace:
    """Where the trial's records lie."""
    return trial_namespace(h.memory, tuple(s["namespace"]), s["trial_id"])


# -- an episode -------------------------------------------------------------------------------------------------------


def begin(s: TrialState) -> EpisodeState:
    """The first state of the coming episode: the task's start, nothing played."""
    return EpisodeState(
        task_id=s["task_id"],
        trial_id=s["trial_id"],
        trial=s["trial"],
        seed=s["seed"],
        episode=len(s["episodes"]),
        memory=s["memory"],
        start=s["start"],
        env_state=s["start"],
        last_plan=next((plan for e in reversed(s["episodes"]) if (plan := _plan(e["turns"]))), ""),
        turns=[],
        outcomes=[],
        done=False,
        terminated=False,
        success=False,
    )


@dataclass(frozen=True, slots=True)
class Ask:
    """A policy call to be made: messages for any number of dropped pieces, and how to sample."""

    build: Callable[[int], list[Message]]
    droppable: int
    sampling: Sampling


class Reply(NamedTuple):
    """A policy call that was made."""

    completion: Completion
    messages: list[Message]
    dropped: int
    seed: int
    seconds: float

    def to_json(self) -> Json:
        """The call as states and logs hold it; messages are interned when the trial is logged."""
        done = self.completion
        return {
            "messages": self.messages,
            "prompt_token_ids": list(done.prompt_token_ids),
            "token_ids": list(done.token_ids),
            "logprobs": list(done.logprobs),
            "policy_version": done.policy_version,
            "finish_reason": done.finish_reason,
            "seed": self.seed,
            "dropped": self.dropped,
            "seconds": round(self.seconds, 6),
        }


def _played(h: Harness, turns: Sequence[TurnRecord], outcomes: Sequence[str]) -> list[Turn]:
    said = h.prompts.thoughts == "shown"
    return [
        Turn(t["observation"], t["action"], o, reasoning(t["text"]) if said else "")
        for t, o in zip(turns, outcomes, strict=True)
    ]


def _plan(turns: Sequence[TurnRecord]) -> str:
    """The plan of an episode, which its first turn made."""
    return turns[0].get("plan", "") if turns else ""


def _remembered(memory: Sequence[Json], trial_id: str) -> list[Remembered]:
    return [
        Remembered(r["kind"], r["text"], r["episode"] + 1, r["metadata"].get(TRIAL_KEY) == trial_id, r["success"])
        for r in memory
    ]


def _seen(h: Harness, s: EpisodeState) -> str:
    """What `observe` shows of the episode's state; a step has said it of the state that it led to."""
    seen = s.get("seen")
    return plain(h.env.observe(s["env_state"])) if seen is None else seen


def ask_action(h: Harness, s: EpisodeState) -> Ask:
    """The call that chooses the next action."""
    env_state = s["env_state"]
    compact = h.prompts.style == "compact"
    view = View(
        episode=s["episode"] + 1,
        observation=h.env.compact(env_state) if compact else _seen(h, s),
        turns=_played(h, s["turns"], s["outcomes"]) if h.prompts.shows_turns else (),
        memory=_remembered(s["memory"], s["trial_id"]),
        actions=h.prompts.actions_now(env_state),
        plan=_plan(s["turns"]),
        last_plan=s.get("last_plan", "") if h.reflects else "",
    )
    seed = stable_seed(s["seed"], s["task_id"], s["trial"], s["episode"], len(s["turns"]))
    return Ask(lambda dropped: h.prompts.act(view, dropped), h.prompts.droppable(view), h.sampling_of(seed, ACTION_TAG))


def said_of(done: Completion) -> str:
    """An answer as it is read and logged: its thoughts in marks before it, where they came apart from it."""
    return plain(as_thought(done.thoughts) + done.text if done.thoughts else done.text)


def acted(h: Harness, s: EpisodeState, reply: Reply, record: bool) -> EpisodeState:
    """The update of one turn: the answer is read, played, and the episode ended if it is over."""
    before = s["env_state"]
    text = said_of(reply.completion)
    inside = extract(text, ACTION_TAG).text
    answer = "" if inside is None else inside[:MAX_ACTION_CHARS]
    action = h.env.parse(answer) if answer else None
    step = h.env.step(before, answer if action is None else action)
    turn = TurnRecord(
        observation=_seen(h, s),
        action=answer if action is None else action,
        reward=step.reward,
        valid=step.valid,
        text=text[:MAX_TEXT_CHARS],
    )
    if h.prompts.strategy == "plan" and not s["turns"] and (plan := extract_plan(text)):
        turn["plan"] = plan
    if record:
        turn["call"] = reply.to_json()
    turns = [*s["turns"], turn]
    return EpisodeState(
        env_state=step.state,
        seen=plain(step.observation),
        turns=turns,
        outcomes=[*s["outcomes"], plain(h.env.outcome(before, turn["action"], step))],
        done=step.done or len(turns) >= h.max_turns,
        terminated=step.done,
        success=step.success,
    )


def ended(h: Harness, s: TrialState, e: EpisodeState) -> Json:
    """The trial's update when the episode `e` is over."""
    turns = e["turns"]
    episode = EpisodeRecord(
        turns=turns,
        success=e["success"],
        reward=sum(turn["reward"] for turn in turns),
        truncated=not e["terminated"],
    )
    compact = h.prompts.style == "compact"
    last = e["env_state"]
    return {
        "episodes": [*s["episodes"], episode],
        "outcomes": e["outcomes"],
        "progress": [*s.get("progress", ()), *progress_of(h, last)],
        "last_observation": plain(h.env.compact(last)) if compact else _seen(h, e),
        "success": e["success"],
    }


def with_calls_apart(s: TrialState, update: Json) -> Json:
    """The update of an episode's end with its calls in a channel of their own: what is played is not what is logged."""
    episode = update["episodes"][-1]
    made = [turn.get("call") for turn in episode["turns"]]
    if not any(made):
        return update
    turns = [{name: value for name, value in turn.items() if name != "call"} for turn in episode["turns"]]
    kept = s.get("calls", [])
    kept = [*kept, *[[]] * (len(s["episodes"]) - len(kept)), made]
    return {**update, "episodes": [*update["episodes"][:-1], {**episode, "turns": turns}], "calls": kept}


def teaches(h: Harness, s: TrialState) -> bool:
    """Whether a trial that was won is still to be reflected on, for other tasks' sake."""
    return s["success"] and h.memory.lessons == "all" and len(s["reflections"]) < len(s["episodes"])


def concluded(s: TrialState) -> Json:
    """The update that takes over the reflection on a won episode; `lessons` then holds it."""
    return {"reflections": [*s["reflections"], s.get("reflection") or ""], "reflection": None}


def won_in(s: TrialState) -> int | None:
    """The episode (from 0) that solved the trial."""
    return len(s["episodes"]) - 1 if s["success"] else None


def is_over(h: Harness, s: TrialState) -> bool:
    """A trial ends at the first success or after its last episode."""
    return s["success"] or len(s["episodes"]) >= h.max_episodes


# -- reflection and memory --------------------------------------------------------------------------------------------


def ask_reflection(h: Harness, s: TrialState) -> Ask:
    """The call that reflects on the episode that has just failed, or has been won (`teaches`)."""
    episode = len(s["episodes"]) - 1
    view = View(
        episode=episode + 1,
        observation=s["last_observation"],
        turns=_played(h, s["episodes"][-1]["turns"], s["outcomes"]),
        memory=_remembered(s["memory"], s["trial_id"]),
        plan=_plan(s["episodes"][-1]["turns"]),
    )
    seed = stable_seed(s["seed"], s["task_id"], s["trial"], episode, "reflection")
    droppable = h.prompts.droppable(view, whole=True)
    return Ask(
        lambda dropped: h.prompts.reflect(view, dropped, won=s["success"]), droppable, h.sampling_of(seed, REMARK_TAG)
    )


def reflected(h: Harness, s: TrialState, reply: Reply, record: bool) -> Json:
    """The update that holds the reflection until it is remembered."""
    answer = plain(reply.completion.text)
    text, failure = extract_remark(answer)
    update: Json = {"reflection": text}
    if record:
        call = {"episode": len(s["episodes"]) - 1, "text": text, "valid": failure is None, "call": reply.to_json()}
        update["reflection_calls"] = [*s["reflection_calls"], call]
    return update


def written(h: Harness, s: TrialState) -> str | None:
    """The reflection that waits to be remembered: a person's at `reflect`, theirs or the policy's at `remember`.

    Raises ConfigError for what is no text, and where no memory would show it.
    """
    text = s.get("reflection")
    if text is not None and not isinstance(text, str):
        raise ConfigError(f"a reflection must be a text, not a {type(text).__name__}: update_state again")
    if text is not None and not h.reflects:
        raise ConfigError(
            f"memory '{h.memory.contents}' shows no reflections, so the one given to update_state would be lost: make "
            "the agent with memory 'reflection' or 'both', or update_state({'reflection': None})"
        )
    return text


def memories(h: Harness, s: TrialState) -> list[MemoryRecord]:
    """What is to be remembered of the episode that has just failed, under deterministic keys.

    Its metadata say what was played (`env`) and how hard it was (`spec`, with the environment's parameters), its
    `success` what the episode came to; see `lessons` for what its trial comes to.
    """
    texts = {kind: _text_of(h, s, kind) for kind in kinds(h.memory.contents)}
    return [
        _record_of(h, s, len(s["episodes"]) - 1, kind, text)
        for kind, text in texts.items()
        if text.strip() or kind == "trajectory"
    ]


def lessons(h: Harness, s: TrialState) -> list[MemoryRecord]:
    """What a solved trial leaves to other tasks' (with scope "tasks"): the trajectory that won, and its reflections
    once more, now as ones that led to a success. Deterministic keys, so writing them again changes nothing."""
    if h.memory.scope != "tasks" or not s["success"]:
        return []
    last, found = len(s["episodes"]) - 1, list[MemoryRecord]()
    for kind in kinds(h.memory.contents):
        if kind == "trajectory":
            found.append(_record_of(h, s, last, kind, _text_of(h, s, kind)))
        else:
            told = [(number, text) for number, text in enumerate(s["reflections"]) if text.strip()]
            found += [_record_of(h, s, number, kind, text) for number, text in told]
    return found


def _text_of(h: Harness, s: TrialState, kind: Kind) -> str:
    """What the last episode leaves, in words."""
    if kind == "reflection":
        return s.get("reflection") or ""
    turns = _played(h, s["episodes"][-1]["turns"], s["outcomes"])
    return h.prompts.trajectory(turns, s["last_observation"], h.memory.max_chars)


def _record_of(h: Harness, s: TrialState, episode: int, kind: Kind, text: str) -> MemoryRecord:
    metadata = {"env": h.env.name, "spec": h.env.spec}
    if h.memory.scope == "tasks":  # a later trial looks for its like by how its own task first looks
        metadata[ABOUT_KEY] = looks(h, s)
    return make_record(s["trial_id"], s["task_id"], episode, kind, text, s["success"], metadata)


def taught(s: TrialState, records: Sequence[MemoryRecord]) -> Json:
    """The update after `lessons` were written."""
    return {"writes": [*s["writes"], _write(s, records)]}


def _write(s: TrialState, records: Sequence[MemoryRecord]) -> Json:
    return {"episode": len(s["episodes"]) - 1, "keys": [record.key for record in records]}


def remembered(h: Harness, s: TrialState, records: Sequence[MemoryRecord]) -> Json:
    """The update after `records` were written. A backend that dies with the process has its records kept here too."""
    update: Json = {"writes": [*s["writes"], _write(s, records)], "reflection": None}
    if h.reflects:  # one an episode, also where a person took it back: the reflection of episode i is number i
        update["reflections"] = [*s["reflections"], s.get("reflection") or ""]
    if not h.backend.persistent:
        update["records"] = [*s["records"], *(record.to_json() for record in records)]
    return update
