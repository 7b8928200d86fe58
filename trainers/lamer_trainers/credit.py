"""Credit across episodes: what every turn and every reflection of a trial is worth.

What must stay true: pure functions of the rewards. For reward r_l(n) at turn l of episode n (LaMer, arXiv 2512.16848,
eq. 3 and 4):

    g_t(n) = sum_{l >= t} gamma_step^(l - t) r_l(n)
    G_t(n) = g_t(n) + sum_{m > n} gamma_traj^(m - n) g_0(m)  =  g_t(n) + gamma_traj G_0(n + 1)

and the reflection after episode n is credited with G_0(n + 1), which it can still change. The authors' code differs:
it adds gamma_traj G_0(n + 1) to the reward of the *last* turn of episode n, so that gamma_step discounts it on the way
back to turn t. `variant="paper"` is the equation, `variant="reference"` is that code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

Variant = Literal["paper", "reference"]


class Returns(NamedTuple):
    """`turns[n][t]` is G_t(n); `reflections[n]` is G_0(n + 1), one fewer than there are episodes."""

    turns: list[list[float]]
    reflections: list[float]


def cross_episode_returns(
    rewards: Sequence[Sequence[float]], *, gamma_step: float, gamma_traj: float, variant: Variant = "paper"
) -> Returns:
    """Returns of one trial from `rewards[n][t]`, in the units of the rewards.

    Raises ValueError for a trial without episodes, an episode without turns, a discount outside [0, 1] or an unknown
    variant.
    """
    if variant not in ("paper", "reference"):
        raise ValueError(f"variant must be 'paper' or 'reference', not {variant!r}")
    if not (0 <= gamma_step <= 1 and 0 <= gamma_traj <= 1):
        raise ValueError(f"discounts lie in [0, 1], not gamma_step={gamma_step}, gamma_traj={gamma_traj}")
    if not rewards or not all(rewards):
        raise ValueError("a trial has at least one episode and every episode at least one turn")
    turns: list[list[float]] = []
    later = 0.0  # gamma_traj * G_0(n + 1)
    for episode in reversed(rewards):
        carried = later if variant == "reference" else 0.0
        added = later if variant == "paper" else 0.0
        returns: list[float] = []
        for reward in reversed(episode):
            carried = reward + (gamma_step * carried if returns else carried)
            returns.append(carried + added)
        turns.append(returns[::-1])
        later = gamma_traj * turns[-1][0]
    turns.reverse()
    return Returns(turns, [episode[0] for episode in turns[1:]])


def call_discounts(
    lengths: Sequence[int], reflected: Sequence[bool], *, gamma_step: float, gamma_traj: float
) -> list[float]:
    """How much of the next call's value counts at each call of a trial, in time order; for `advantages.gae`.

    Episode n has `lengths[n]` turns, and `reflected[n]` says that a trained reflection follows it (the last one's is
    ignored). gamma_step within an episode, gamma_traj from its last turn on, 1 from a reflection to the episode that it
    prepares, 0 at the end. The sum of rewards under these discounts is `cross_episode_returns(variant="reference")`.
    """
    discounts: list[float] = []
    for number, turns in enumerate(lengths):
        last = number + 1 == len(lengths)
        discounts += [gamma_step] * (turns - 1) + [0.0 if last else gamma_traj]
        if not last and reflected[number]:
            discounts.append(1.0)
    return discounts
