"""Advantages against independent computations: plain loops over the calls, one call at a time."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamer_trainers.advantages import anchored, gae, gigpo, grpo, mr_search, reinforce_plus_plus, rloo, whiten
from lamer_trainers.credit import cross_episode_returns

EPS = 1e-6


@st.composite
def batches(draw, min_size=1):
    """Calls of a few tasks, each call of one trial of its task, with few distinct anchors."""
    calls = []
    for _ in range(draw(st.integers(min_size, 24))):
        group = draw(st.sampled_from("abc"))
        calls.append(
            {
                "groups": group,
                "trials": f"{group}{draw(st.integers(0, 2))}",
                "anchors": draw(st.sampled_from(["x", "y", "z"])),
                "episode_rewards": draw(st.integers(-20, 20)) / 2,
                "step_returns": draw(st.integers(-40, 40)) / 4,
            }
        )
    return {key: [call[key] for call in calls] for key in calls[0]}


def relative(value, peers, normalise, single):
    """One value against its peers (itself among them)."""
    if len(peers) == 1:
        return single
    centred = value - sum(peers) / len(peers)
    return centred if normalise == "mean" else centred / (statistics.stdev(peers) + EPS)


def close(a, b):
    return a == pytest.approx(b, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("normalise", ["mean", "std"])
@given(batch=batches(), weight=st.sampled_from([0.0, 0.5, 1.0]))
def test_gigpo_equals_a_loop_over_calls(normalise, batch, weight):
    got = gigpo(**batch, step_weight=weight, normalise=normalise, eps=EPS)
    for i in range(len(got)):
        same = [j for j in range(len(got)) if batch["groups"][j] == batch["groups"][i]]
        near = [j for j in same if batch["anchors"][j] == batch["anchors"][i]]
        reward, step = batch["episode_rewards"][i], batch["step_returns"][i]
        expected = relative(reward, [batch["episode_rewards"][j] for j in same], normalise, reward)
        expected += weight * relative(step, [batch["step_returns"][j] for j in near], normalise, 0.0)
        assert close(got[i], expected)


@pytest.mark.parametrize("normalise", ["mean", "std"])
@given(batch=batches())
def test_grpo_equals_a_loop_over_calls(normalise, batch):
    got = grpo(groups=batch["groups"], episode_rewards=batch["episode_rewards"], normalise=normalise, eps=EPS)
    for i, value in enumerate(batch["episode_rewards"]):
        same = [r for r, g in zip(batch["episode_rewards"], batch["groups"], strict=True) if g == batch["groups"][i]]
        assert close(got[i], relative(value, same, normalise, value))


@given(batches())
def test_rloo_compares_with_the_other_trials_of_the_group_only(batch):
    got = rloo(groups=batch["groups"], trials=batch["trials"], episode_rewards=batch["episode_rewards"])
    for i, value in enumerate(batch["episode_rewards"]):
        others = [
            r
            for r, g, t in zip(batch["episode_rewards"], batch["groups"], batch["trials"], strict=True)
            if g == batch["groups"][i] and t != batch["trials"][i]
        ]
        assert close(got[i], value - sum(others) / len(others) if others else 0.0)


@st.composite
def attempts(draw):
    """Calls of whole trials: every trial of a group has episodes 0 to some last, each of one or more calls."""
    calls = []
    for group in "ab"[: draw(st.integers(1, 2))]:
        for trial in range(draw(st.integers(1, 4))):
            for episode in range(draw(st.integers(1, 3))):
                reward = draw(st.integers(-20, 20)) / 2
                charged = draw(st.lists(st.sampled_from([0.0, 0.5]), min_size=1, max_size=3))
                calls += [
                    {"groups": group, "trials": trial, "episodes": episode, "episode_rewards": reward - lost}
                    for lost in charged
                ]
    calls = draw(st.permutations(calls))
    return {key: [call[key] for call in calls] for key in calls[0]}


@given(attempts(), st.sampled_from([0.0, 0.6, 1.0]))
def test_mr_search_compares_like_episodes_of_other_trials_and_then_sums_over_the_later_ones(batch, gamma):
    calls = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
    last = max(call["episodes"] for call in calls)

    def mean_of(group, trial, episode):
        mine = [
            c["episode_rewards"] for c in calls if (c["groups"], c["trials"], c["episodes"]) == (group, trial, episode)
        ]
        return statistics.fmean(mine) if mine else None

    def baseline(group, trial, episode):
        names = {c["trials"] for c in calls if c["groups"] == group} - {trial}
        known = [value for name in sorted(names) if (value := mean_of(group, name, episode)) is not None]
        return statistics.fmean(known) if known else None

    for got, call in zip(mr_search(**batch, gamma=gamma), calls, strict=True):
        group, trial, here = call["groups"], call["trials"], call["episodes"]
        expected = 0.0
        for episode in range(here, last + 1):
            own, other = mean_of(group, trial, episode), baseline(group, trial, episode)
            if own is not None and other is not None:
                expected += gamma ** (episode - here) * ((call["episode_rewards"] if episode == here else own) - other)
        assert close(got, expected)


def test_in_mr_search_a_trial_that_wins_later_is_credited_from_its_first_episode_on():
    got = mr_search(
        groups=["a"] * 4, trials=[0, 0, 1, 1], episodes=[0, 1, 0, 1], episode_rewards=[0.0, 10.0, 0.0, 0.0], gamma=0.5
    )
    assert close(got, [5.0, 10.0, -5.0, -10.0])


def test_mr_search_of_no_calls_is_empty():
    assert mr_search(groups=[], trials=[], episodes=[], episode_rewards=[], gamma=0.5) == []


@given(batches(min_size=2))
def test_anchored_falls_back_normalises_by_the_batch_and_clamps(batch):
    fallbacks = batch["trials"]
    got = anchored(
        groups=batch["groups"],
        anchors=batch["anchors"],
        fallbacks=fallbacks,
        step_returns=batch["step_returns"],
        clamp=1.5,
        eps=EPS,
    )
    count = len(got)
    centred = []
    for i, value in enumerate(batch["step_returns"]):
        same = [j for j in range(count) if batch["groups"][j] == batch["groups"][i]]
        near = [j for j in same if batch["anchors"][j] == batch["anchors"][i]]
        if len(near) == 1:
            near = [j for j in same if fallbacks[j] == fallbacks[i]]
        centred.append(value - sum(batch["step_returns"][j] for j in near) / len(near))
    scale = statistics.stdev(centred) + EPS
    assert close(got, [max(-1.5, min(1.5, value / scale)) for value in centred])


@given(st.lists(st.integers(-40, 40).map(float), min_size=2, max_size=30))
def test_reinforce_plus_plus_normalises_over_the_batch(returns):
    got = reinforce_plus_plus(step_returns=returns, eps=EPS)
    mean, scale = statistics.fmean(returns), statistics.stdev(returns) + EPS
    assert close(got, [(value - mean) / scale for value in returns])


def test_whitening_gives_zero_mean_and_unit_deviation():
    values = whiten([3.0, 5.0, 10.0, -2.0])
    assert close(statistics.fmean(values), 0.0)
    assert close(statistics.stdev(values), 1.0)


@given(batches(), st.randoms())
def test_the_order_of_calls_does_not_matter(batch, random):
    order = list(range(len(batch["groups"])))
    random.shuffle(order)
    shuffled = {key: [values[i] for i in order] for key, values in batch.items()}
    got, moved = gigpo(**batch, normalise="std"), gigpo(**shuffled, normalise="std")
    assert close(moved, [got[i] for i in order])


@given(batches())
def test_equal_rewards_give_no_signal(batch):
    batch = {**batch, "episode_rewards": [2.0] * len(batch["groups"]), "step_returns": [1.0] * len(batch["groups"])}
    sizes = {g: batch["groups"].count(g) for g in batch["groups"]}
    for normalise in ("mean", "std"):
        got = gigpo(**batch, normalise=normalise)
        assert all(value == 0 for value, g in zip(got, batch["groups"], strict=True) if sizes[g] > 1)
    assert set(reinforce_plus_plus(step_returns=batch["step_returns"])) == {0.0}
    alike = rloo(groups=batch["groups"], trials=batch["trials"], episode_rewards=batch["episode_rewards"])
    assert set(alike) == {0.0}


# -- GAE --------------------------------------------------------------------------------------------------------------


@st.composite
def sequences(draw):
    trials = []
    for name in range(draw(st.integers(1, 3))):
        trials += [f"t{name}"] * draw(st.integers(1, 6))
    trials = draw(st.permutations(trials))
    number = st.integers(-20, 20).map(lambda n: n / 4)
    size = {"min_size": len(trials), "max_size": len(trials)}
    return {
        "trials": trials,
        "rewards": draw(st.lists(number, **size)),
        "values": draw(st.lists(number, **size)),
        "discounts": draw(st.lists(st.sampled_from([0.0, 0.6, 0.95, 1.0]), **size)),
    }


@given(sequences(), st.sampled_from([0.0, 0.5, 0.95, 1.0]))
def test_gae_equals_the_sum_of_discounted_residuals(batch, lam):
    got = gae(**batch, lam=lam)
    for i, trial in enumerate(batch["trials"]):
        mine = [j for j in range(i, len(batch["trials"])) if batch["trials"][j] == trial]
        total, factor = 0.0, 1.0
        for position, j in enumerate(mine):
            after = batch["values"][mine[position + 1]] if position + 1 < len(mine) else 0.0
            total += factor * (batch["rewards"][j] + batch["discounts"][j] * after - batch["values"][j])
            factor *= batch["discounts"][j] * lam
        assert close(got.advantages[i], total)
        assert close(got.targets[i], total + batch["values"][i])


def test_gae_with_lambda_one_is_the_cross_episode_return_minus_the_value():
    rewards = [[-0.1, 0.5], [2.0, -1.0, 10.0]]
    values = [1.0, 2.0, 3.0, 4.0, 5.0]
    expected = cross_episode_returns(rewards, gamma_step=0.95, gamma_traj=0.6, variant="reference")
    flat = [value for episode in expected.turns for value in episode]
    got = gae(
        trials=["a"] * 5,
        rewards=[r for episode in rewards for r in episode],
        values=values,
        discounts=[0.95, 0.6, 0.95, 0.95, 0.0],
        lam=1.0,
    )
    assert close(got.advantages, [g - v for g, v in zip(flat, values, strict=True)])
    assert close(got.targets, flat)


# -- bad input --------------------------------------------------------------------------------------------------------


def test_arrays_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="one entry per call"):
        grpo(groups=["a", "a"], episode_rewards=[1.0])


def test_a_trial_in_two_groups_is_refused():
    with pytest.raises(ValueError, match="two groups"):
        gigpo(
            groups=["a", "b"],
            trials=["t", "t"],
            anchors=["x", "x"],
            episode_rewards=[1.0, 2.0],
            step_returns=[0.0, 0.0],
        )


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_reward_that_is_not_finite_is_refused(bad):
    with pytest.raises(ValueError, match="finite"):
        reinforce_plus_plus(step_returns=[1.0, bad])


def test_an_unknown_normalisation_is_refused():
    with pytest.raises(ValueError, match="normalise"):
        grpo(groups=["a", "a"], episode_rewards=[1.0, 2.0], normalise="variance")


def test_no_calls_give_no_advantages():
    assert reinforce_plus_plus(step_returns=[]) == []
    assert grpo(groups=[], episode_rewards=[]) == []
