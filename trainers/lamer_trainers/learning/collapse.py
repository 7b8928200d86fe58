"""Collapse: does what the policy writes depend on its task, and which groups still tell good from bad (RAGEN-2,
arXiv 2604.06268)?

What must stay true: pure functions of a batch, deterministic, in nats; a number comes with what it would be by chance.

Entropy cannot see that a policy writes one varied template whatever it is asked; the mutual information I(T; R) of task
T and text R can. Two estimates:

- `plug_in`, always: I = H(R) - H(R | T) of the counts of whole texts. Its bias is upwards, some (|T| - 1)(|R| - 1) / 2N
  nats for N texts of few different ones, and where all texts differ it is H(T) whatever the policy does. So it comes
  with `chance`, the mean of the same number over texts dealt out anew: what is above it is information, and where the
  two are equal nothing can be said. The difference errs towards 0.
- `contrastive`, on demand (`collapse_probe`): with L_ij the log-probability that the policy gives to text i after the
  prompt of task j, the mean of L_ii - log mean_j exp L_ij over K tasks. The source's proxies are of this kind (matched
  against marginal scores, and retrieval accuracy). It is biased downwards, and at most log K.
"""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from lamer_trainers.learning.samples import Sample

DEALS = 20
"""How often texts are dealt out anew to know what chance would do."""
MOST_ANSWER = 256
"""Tokens of a text that the contrastive estimate looks at, its first ones."""


class Information(NamedTuple):
    """In nats: what texts say of their tasks, what they would by chance, and what varies within a task, H(R | T)."""

    plug_in: float
    chance: float
    within: float

    @property
    def excess(self) -> float:
        return self.plug_in - self.chance


def information(tasks: Sequence[Hashable], texts: Sequence[Hashable], seed: int = 0) -> Information:
    """I(T; R) of N pairs by their counts, and of the same texts dealt out at random. Raises ValueError for none."""
    if not texts or len(texts) != len(tasks):
        raise ValueError(f"information needs pairs of a task and a text, not {len(tasks)} and {len(texts)}")
    every, within = entropy(texts), _within(tasks, texts)
    rng, dealt = random.Random(seed), list(texts)
    chance = 0.0
    for _ in range(DEALS):
        rng.shuffle(dealt)
        chance += (every - _within(tasks, dealt)) / DEALS
    return Information(every - within, chance, within)


def entropy(values: Sequence[Hashable]) -> float:
    """The entropy of the counts, in nats."""
    counts = Counter(values).values()
    return math.log(len(values)) - sum(count * math.log(count) for count in counts) / len(values)


def _within(tasks: Sequence[Hashable], texts: Sequence[Hashable]) -> float:
    by_task: dict[Hashable, list[Hashable]] = defaultdict(list)
    for task, text in zip(tasks, texts, strict=True):
        by_task[task].append(text)
    return sum(len(own) * entropy(own) for own in by_task.values()) / len(texts)


def contrastive(scores: Sequence[Sequence[float]]) -> tuple[float, float]:
    """The contrastive estimate of I(T; R) from `scores[i][j]`, log p(text i | task j), at most log K; and how often a
    text's own task is the likeliest."""
    table = np.asarray(scores, dtype=np.float64)
    own = np.diagonal(table)
    most = table.max(axis=1)
    marginal = most + np.log(np.exp(table - most[:, None]).mean(axis=1))
    # A tie is no recognition: a policy that ignores the task gives all the same.
    found = (own >= most) & ((table >= most[:, None]).sum(axis=1) == 1)
    return float((own - marginal).mean()), float(found.mean())


def collapse_metrics(samples: Sequence[Sample]) -> dict[str, float]:
    """Of the reflections of a batch, and of the answers at its trials' first turns: excess information, chance,
    entropy within a task. Of tasks' own trials alone, since re-rolls were chosen; where there are two tasks or more."""
    found: dict[str, float] = {}
    for name, chosen in (
        ("reflection", [one for one in samples if one.kind == "reflection"]),
        ("answer", [one for one in samples if one.kind == "turn" and one.episode == one.turn == 0]),
    ):
        chosen = [one for one in chosen if not one.rerolled]
        tasks, texts = [one.group for one in chosen], [" ".join(one.text.split()) for one in chosen]
        if len(set(tasks)) > 1:
            told = information(tasks, texts)
            found |= {
                f"collapse/{name}_mi": told.excess,
                f"collapse/{name}_chance": told.chance,
                f"collapse/{name}_entropy": told.within,
            }
    return found


Scored = Callable[[Sequence[Sample]], Sequence[float]]
"""The log-probability of each sample's answer after its prompt."""


def probe(samples: Sequence[Sample], most: int, seed: int, scored: Scored) -> dict[str, float]:
    """The contrastive estimate over a reflection each of at most `most` tasks (where none reflects: a first answer),
    drawn by `seed`; `most` squared texts are scored. Nothing with fewer than two tasks."""
    usable = [one for one in samples if not (one.rerolled or one.remembered)]
    written = [one for one in usable if one.kind == "reflection"]
    written = written or [one for one in usable if one.episode == one.turn == 0]
    rng = random.Random(seed)
    rng.shuffle(written)
    chosen = list({one.group: one for one in written}.values())[:most]
    if len(chosen) < 2:
        return {}
    answers = [one.token_ids[:MOST_ANSWER] for one in chosen]
    crossed = [replace(task, token_ids=answer, logprobs=[0.0] * len(answer)) for answer in answers for task in chosen]
    flat, size = scored(crossed), len(chosen)
    told, recognised = contrastive([flat[row * size : (row + 1) * size] for row in range(size)])
    return {"collapse/contrastive_mi": told, "collapse/recognised": recognised, "collapse/probed": float(size)}


def telling_groups(samples: Sequence[Sample], quantile: float) -> tuple[list[Sample], dict[str, float]]:
    """The samples of groups whose returns vary enough, and what was left out: the `quantile` of least variance.

    A group's variance is that of G_0(0) over its trials, or of what follows the place that re-rolls were begun from.
    Where it is low the gradient is mostly noise and regularisation. RAGEN-2 keeps the prompts that hold a share of the
    batch's variance together; ours keeps those from a quantile on, so that the share of groups that train is known
    beforehand. With 0 all stay.
    """
    first: dict[str, Sample] = {}
    for sample in samples:
        first.setdefault(sample.trial, sample)  # in time order within a trial
    returns: dict[str, list[float]] = defaultdict(list)
    for sample in first.values():
        returns[sample.group].append(sample.step_return)
    variances = {group: float(np.var(values)) for group, values in returns.items()}
    metrics = {"groups/variance": sum(variances.values()) / len(variances), "groups/dropped": 0.0}
    if quantile == 0:
        return list(samples), metrics
    least = sorted(variances.values())[int(quantile * len(variances))]
    kept = [sample for sample in samples if variances[sample.group] >= least]
    metrics["groups/dropped"] = float(sum(variance < least for variance in variances.values()))
    return kept, metrics
