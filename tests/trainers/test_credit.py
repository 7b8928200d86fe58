"""Credit across episodes against sums written out term by term."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamer_trainers.credit import call_discounts, counted, cross_episode_returns, with_progress

REWARDS = st.lists(
    st.lists(st.floats(-10, 10, allow_nan=False).map(lambda x: round(x, 3)), min_size=1, max_size=6),
    min_size=1,
    max_size=4,
)
DISCOUNT = st.floats(0, 1, allow_nan=False)


def close(a, b):
    return a == pytest.approx(b, rel=1e-9, abs=1e-9)


def flat(returns):
    return [value for episode in returns.turns for value in episode]


def paper_term(rewards, n, t, gamma_step, gamma_traj):
    """G_t(n) with every reward's factor written out."""
    total = sum(gamma_step ** (u - t) * r for u, r in enumerate(rewards[n]) if u >= t)
    for m in range(n + 1, len(rewards)):
        total += sum(gamma_traj ** (m - n) * gamma_step**u * r for u, r in enumerate(rewards[m]))
    return total


def reference_term(rewards, n, t, gamma_step, gamma_traj):
    """The same with every later episode also discounted over the turns that lie between."""
    total, factor = 0.0, 1.0
    for m in range(n, len(rewards)):
        start = t if m == n else 0
        total += sum(factor * gamma_step ** (u - start) * r for u, r in enumerate(rewards[m]) if u >= start)
        factor *= gamma_step ** (len(rewards[m]) - 1 - start) * gamma_traj
    return total


@given(REWARDS, DISCOUNT, DISCOUNT)
def test_paper_returns_equal_the_sum_written_out(rewards, gamma_step, gamma_traj):
    got = cross_episode_returns(rewards, gamma_step=gamma_step, gamma_traj=gamma_traj)
    for n, episode in enumerate(rewards):
        for t in range(len(episode)):
            assert close(got.turns[n][t], paper_term(rewards, n, t, gamma_step, gamma_traj))


@given(REWARDS, DISCOUNT, DISCOUNT)
def test_reference_returns_equal_the_sum_written_out(rewards, gamma_step, gamma_traj):
    got = cross_episode_returns(rewards, gamma_step=gamma_step, gamma_traj=gamma_traj, variant="reference")
    for n, episode in enumerate(rewards):
        for t in range(len(episode)):
            assert close(got.turns[n][t], reference_term(rewards, n, t, gamma_step, gamma_traj))


@pytest.mark.parametrize("variant", ["paper", "reference"])
@given(rewards=REWARDS, gamma_step=DISCOUNT, gamma_traj=DISCOUNT)
def test_a_reflection_is_worth_the_episode_that_follows(variant, rewards, gamma_step, gamma_traj):
    got = cross_episode_returns(rewards, gamma_step=gamma_step, gamma_traj=gamma_traj, variant=variant)
    assert got.reflections == [episode[0] for episode in got.turns[1:]]


@pytest.mark.parametrize("variant", ["paper", "reference"])
@given(rewards=REWARDS, gamma_step=DISCOUNT)
def test_without_credit_across_episodes_each_stands_alone(variant, rewards, gamma_step):
    got = cross_episode_returns(rewards, gamma_step=gamma_step, gamma_traj=0.0, variant=variant)
    for n, episode in enumerate(rewards):
        alone = [sum(gamma_step**k * r for k, r in enumerate(episode[t:])) for t in range(len(episode))]
        assert close(got.turns[n], alone)


@pytest.mark.parametrize("variant", ["paper", "reference"])
@given(episode=st.lists(st.floats(-10, 10), min_size=1, max_size=8), gamma_step=DISCOUNT, gamma_traj=DISCOUNT)
def test_one_episode_is_plain_reinforcement_learning(variant, episode, gamma_step, gamma_traj):
    got = cross_episode_returns([episode], gamma_step=gamma_step, gamma_traj=gamma_traj, variant=variant)
    value, expected = 0.0, []
    for reward in reversed(episode):
        value = reward + gamma_step * value
        expected.insert(0, value)
    assert close(got.turns[0], expected)
    assert got.reflections == []


@pytest.mark.parametrize("variant", ["paper", "reference"])
@given(rewards=REWARDS, scale=st.floats(-3, 3), gamma_step=DISCOUNT, gamma_traj=DISCOUNT, data=st.data())
def test_returns_are_linear_in_the_rewards(variant, rewards, scale, gamma_step, gamma_traj, data):
    other = [data.draw(st.lists(st.floats(-5, 5), min_size=len(e), max_size=len(e))) for e in rewards]
    options = {"gamma_step": gamma_step, "gamma_traj": gamma_traj, "variant": variant}
    mixed = [[scale * a + b for a, b in zip(x, y, strict=True)] for x, y in zip(rewards, other, strict=True)]
    left = flat(cross_episode_returns(mixed, **options))
    first, second = flat(cross_episode_returns(rewards, **options)), flat(cross_episode_returns(other, **options))
    assert left == pytest.approx([scale * a + b for a, b in zip(first, second, strict=True)], rel=1e-6, abs=1e-6)


def test_the_two_variants_differ_where_the_papers_equation_and_code_do():
    rewards = [[0.0, 0.0], [10.0]]
    paper = cross_episode_returns(rewards, gamma_step=0.5, gamma_traj=0.6)
    reference = cross_episode_returns(rewards, gamma_step=0.5, gamma_traj=0.6, variant="reference")
    assert paper.turns == [[6.0, 6.0], [10.0]]
    assert reference.turns == [[3.0, 6.0], [10.0]]
    assert paper.reflections == reference.reflections == [10.0]


@given(REWARDS, DISCOUNT, DISCOUNT, st.booleans())
def test_discounts_between_calls_sum_to_the_reference_returns(rewards, gamma_step, gamma_traj, reflect):
    discounts = call_discounts(
        [len(e) for e in rewards], [reflect] * len(rewards), gamma_step=gamma_step, gamma_traj=gamma_traj
    )
    calls = []
    for n, episode in enumerate(rewards):
        calls += [*episode, 0.0] if reflect and n + 1 < len(rewards) else episode
    assert len(calls) == len(discounts)
    value, values = 0.0, []
    for reward, discount in zip(reversed(calls), reversed(discounts), strict=True):
        value = reward + discount * value
        values.insert(0, value)
    got = cross_episode_returns(rewards, gamma_step=gamma_step, gamma_traj=gamma_traj, variant="reference")
    expected = []
    for n, episode in enumerate(got.turns):
        expected += [*episode, got.reflections[n]] if reflect and n + 1 < len(rewards) else episode
    assert close(values, expected)


@pytest.mark.parametrize("rewards", [[], [[]], [[1.0], []]])
def test_nothing_played_is_refused(rewards):
    with pytest.raises(ValueError, match="at least one"):
        cross_episode_returns(rewards, gamma_step=0.95, gamma_traj=0.6)


@pytest.mark.parametrize("options", [{"gamma_step": 1.1, "gamma_traj": 0.6}, {"gamma_step": 0.9, "gamma_traj": -1}])
def test_a_discount_outside_the_unit_interval_is_refused(options):
    with pytest.raises(ValueError, match="discounts"):
        cross_episode_returns([[1.0]], **options)


def test_an_unknown_variant_is_refused():
    with pytest.raises(ValueError, match="variant"):
        cross_episode_returns([[1.0]], gamma_step=0.9, gamma_traj=0.6, variant="papr")


# -- other objectives -------------------------------------------------------------------------------------------------


@given(REWARDS, DISCOUNT, DISCOUNT)
def test_with_the_final_objective_earlier_episodes_are_credited_with_the_last_alone(rewards, gamma_step, gamma_traj):
    got = cross_episode_returns(counted(rewards, "final"), gamma_step=gamma_step, gamma_traj=gamma_traj)
    last = len(rewards) - 1
    final = sum(gamma_step**t * r for t, r in enumerate(rewards[last]))
    for n, episode in enumerate(rewards[:last]):
        assert close(got.turns[n], [gamma_traj ** (last - n) * final] * len(episode))
    turns = range(len(rewards[last]))
    own = [sum(gamma_step ** (u - t) * rewards[last][u] for u in turns if u >= t) for t in turns]
    assert close(got.turns[last], own)


@given(REWARDS)
def test_with_the_objective_all_the_rewards_are_left_as_they_are(rewards):
    assert counted(rewards, "all") == rewards


def test_an_unknown_objective_is_refused():
    with pytest.raises(ValueError, match="objective must be 'all' or 'final'"):
        counted([[1.0]], "last")


@st.composite
def progresses(draw):
    rewards = draw(REWARDS)
    unit = st.integers(0, 8).map(lambda n: n / 8)
    return rewards, draw(unit), draw(st.lists(unit, min_size=len(rewards), max_size=len(rewards)))


@given(progresses(), st.sampled_from([0.0, 0.5, 2.0]))
def test_a_trials_intrinsic_reward_is_its_best_progress_beyond_the_start_whatever_the_order(made, weight):
    rewards, start, ends = made
    shaped = with_progress(rewards, start, ends, weight)
    gained = [sum(new) - sum(old) for new, old in zip(shaped, rewards, strict=True)]
    assert close(sum(gained), weight * (max(start, *ends) - start))
    for n, gain in enumerate(gained):  # each by its own definition, at the last turn
        best = max([start, *ends[:n]])
        assert gain == pytest.approx(weight * max(0.0, ends[n] - best), abs=1e-9)
        assert shaped[n][:-1] == rewards[n][:-1]


def test_an_episode_without_progress_to_its_name_is_refused():
    with pytest.raises(ValueError, match="2 episodes, but the progress of 1"):
        with_progress([[1.0], [1.0]], 0.0, [0.5], 1.0)
