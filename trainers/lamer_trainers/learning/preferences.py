"""Preference pairs out of logged groups: which of two answers, or of two whole trials, came to more.

What must stay true: a pair's tokens are those that were logged; both sides were drawn under one condition (the same
prompt tokens, or the same task with the same right to other tasks' records), so that what they would be normalised by
cancels (Rafailov et al., arXiv 2305.18290, eq. 6 and 7); the chosen side earned more by at least the gap.

Two kinds. `turn`: two calls of a group with the same prompt, token by token, and different answers. An answer's value
is the mean return G_t(n) of the calls that gave it there. Reflections, credited with G_0(n + 1), are compared with each
other like turns where their prompts are the same, which holds of few: they tell whole episodes. `trial`: all calls of
two trials of a task, valued G_0(0). Transitions are the environment's and cancel, so the log-probability of a trial is
the sum over its answers (Song et al., arXiv 2403.02502, eq. 5), also where no prompt is the beginning of the next.
Calls that both made, with the same tokens, cancel in the difference and are left out of both.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from lamer_trainers.learning.samples import Sample

Kind = Literal["turn", "reflection", "trial"]
Which = Literal["turn", "trial", "both"]


@dataclass(frozen=True, slots=True)
class PairRules:
    """Which pairs: kinds, the least difference of returns (in rewards' units), and how many a task has at most.

    Of more, the seed draws. With a `gap` of 0 any difference will do; equals are no pair.
    """

    which: Which = "turn"
    gap: float = 1.0
    per_group: int = 16
    reflections: bool = True


class Pair(NamedTuple):
    """Two sides in calls (one each, but for trials) and what they earned."""

    kind: Kind
    group: str
    chosen: tuple[Sample, ...]
    rejected: tuple[Sample, ...]
    chosen_return: float
    rejected_return: float


Tokens = tuple[int, ...]
Call = tuple[Tokens, Tokens]


def pairs_of(samples: Sequence[Sample], rules: PairRules, seed: int = 0) -> list[Pair]:
    """The pairs of all groups among these samples, by group; the same for the same samples, whatever their order."""
    groups: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[sample.group].append(sample)
    found: list[Pair] = []
    for name in sorted(groups):
        members = sorted(groups[name], key=lambda one: (one.trial, one.episode, one.turn, one.kind))
        own: list[Pair] = []
        if rules.which in ("turn", "both"):
            own += turn_pairs(members, rules)
        if rules.which in ("trial", "both"):
            own += trial_pairs(members, rules)
        if len(own) > rules.per_group:
            kept = random.Random(f"{seed} {name}").sample(range(len(own)), rules.per_group)
            own = [own[at] for at in sorted(kept)]
        found += own
    return found


def turn_pairs(samples: Sequence[Sample], rules: PairRules) -> list[Pair]:
    """Pairs of answers to one prompt, of the samples of one group in a fixed order."""
    asked: dict[tuple[Tokens, str], dict[Tokens, list[Sample]]] = defaultdict(lambda: defaultdict(list))
    for sample in samples:
        if sample.kind == "turn" or rules.reflections:
            asked[tuple(sample.prompt_token_ids), sample.kind][tuple(sample.token_ids)].append(sample)
    pairs = []
    for (_, kind), answers in asked.items():
        valued = [(sum(one.step_return for one in given) / len(given), given[0]) for given in answers.values()]
        for at, (value, sample) in enumerate(valued):
            for other, rival in valued[at + 1 :]:
                if _differ(value, other, rules.gap):
                    pairs.append(
                        _pair("turn" if kind == "turn" else "reflection", (value, (sample,)), (other, (rival,)))
                    )
    return pairs


def trial_pairs(samples: Sequence[Sample], rules: PairRules) -> list[Pair]:
    """Pairs of whole trials, of the samples of one group in a fixed order, each trial's in time order.

    A trial without its first call, as of an application or begun from another's midst, has no return of its own and is
    in no pair.
    """
    trials: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        trials[sample.trial].append(sample)
    whole = [calls for calls in trials.values() if (calls[0].episode, calls[0].turn, calls[0].kind) == (0, 0, "turn")]
    pairs = []
    for at, calls in enumerate(whole):
        for others in whole[at + 1 :]:
            value, rival = calls[0].step_return, others[0].step_return
            if calls[0].held != others[0].held or not _differ(value, rival, rules.gap):
                continue
            left, right = _apart(_trained(calls, rules), _trained(others, rules))
            if left and right:
                pairs.append(_pair("trial", (value, left), (rival, right)))
    return pairs


def _trained(calls: Sequence[Sample], rules: PairRules) -> list[Sample]:
    return [call for call in calls if call.kind == "turn" or rules.reflections]


def _apart(one: Iterable[Sample], other: Iterable[Sample]) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """Both sides without the calls that they share, each counted as often as it was made."""
    left, right = list(one), list(other)
    places: dict[Call, list[int]] = defaultdict(list)
    for at, call in enumerate(right):
        places[_call(call)].append(at)
    kept, gone = [], set[int]()
    for call in left:
        same = places.get(_call(call))
        if same:
            gone.add(same.pop(0))
        else:
            kept.append(call)
    return tuple(kept), tuple(call for at, call in enumerate(right) if at not in gone)


def _call(sample: Sample) -> Call:
    return tuple(sample.prompt_token_ids), tuple(sample.token_ids)


def _differ(value: float, other: float, gap: float) -> bool:
    return value != other and abs(value - other) >= gap


def _pair(kind: Kind, one: tuple[float, tuple[Sample, ...]], other: tuple[float, tuple[Sample, ...]]) -> Pair:
    (more, chosen), (less, rejected) = (one, other) if one[0] > other[0] else (other, one)
    return Pair(kind, chosen[0].group, chosen, rejected, more, less)


def row_of(pair: Pair) -> dict[str, Any]:
    """A pair as a row of a data set.

    `prompt_ids`, `chosen_ids` and `rejected_ids` are TRL's columns of a tokenised preference, empty for trials, whose
    calls are in `chosen` and `rejected`. `logged_.._logps` are sums of the logged log-probabilities (nats).
    """
    single = pair.kind != "trial"
    return {
        "kind": pair.kind,
        "task_id": pair.group,
        "chosen_return": pair.chosen_return,
        "rejected_return": pair.rejected_return,
        "prompt_ids": list(pair.chosen[0].prompt_token_ids) if single else [],
        "chosen_ids": list(pair.chosen[0].token_ids) if single else [],
        "rejected_ids": list(pair.rejected[0].token_ids) if single else [],
        "chosen": [_told(call) for call in pair.chosen],
        "rejected": [_told(call) for call in pair.rejected],
        "logged_chosen_logps": sum(sum(call.logprobs) for call in pair.chosen),
        "logged_rejected_logps": sum(sum(call.logprobs) for call in pair.rejected),
    }


def _told(call: Sample) -> dict[str, Any]:
    return {
        "trial_id": call.trial,
        "kind": call.kind,
        "episode": call.episode,
        "turn": call.turn,
        "text": call.text,
        "prompt_ids": list(call.prompt_token_ids),
        "token_ids": list(call.token_ids),
        "logprobs": list(call.logprobs),
    }
