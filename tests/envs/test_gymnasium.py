"""The gymnasium adapter passes gymnasium's own checker and adds no rule of its own."""

from __future__ import annotations

import warnings

import pytest

pytest.importorskip("gymnasium")

from gymnasium.utils.env_checker import check_env as gymnasium_check_env

from lamer_envs import make
from lamer_envs.gymnasium import LamerGymEnv

SPECS = ["minesweeper", "sokoban", "webshop:50", "alfworld"]


@pytest.mark.parametrize("spec", [*SPECS, "sokoban:8x8-5", "webshop:50,reward=score,goals=synthetic"])
def test_it_passes_gymnasiums_checker_without_a_warning(spec: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Render modes beyond the one given are only tried on environments registered with gymnasium.
        warnings.filterwarnings("ignore", message=".*Not able to test alternative render modes")
        gymnasium_check_env(LamerGymEnv(spec, render_mode="ansi"))


@pytest.mark.parametrize("spec", SPECS)
def test_it_plays_as_the_environment_does(spec: str) -> None:
    env, adapter = make(spec), LamerGymEnv(spec, render_mode="ansi")
    for seed in range(20):
        state = env.reset(seed)
        observation, info = adapter.reset(seed=seed)
        assert observation == env.observe(state) == adapter.render()
        assert info["admissible"] == env.admissible(state)
        assert adapter.observation_space.contains(observation)
        plan = env.solve(state)
        assert plan is not None
        for action in plan:
            step = env.step(state, action)
            observation, reward, terminated, truncated, info = adapter.step(action)
            assert (observation, reward, terminated) == (step.observation, step.reward, step.done)
            assert not truncated
            assert (info["success"], info["valid"]) == (step.success, step.valid)
            state = step.state
        assert terminated


def test_the_budget_truncates_and_bad_text_is_an_invalid_turn() -> None:
    adapter = LamerGymEnv("minesweeper", max_turns=2)
    adapter.reset(seed=0)
    _, reward, terminated, truncated, info = adapter.step("no action")
    assert (reward, terminated, truncated, info["valid"]) == (-1.0, False, False, False)
    assert adapter.step("no action")[2:4] == (False, True)


def test_tasks_without_a_seed_follow_from_the_last_seed() -> None:
    one, two = LamerGymEnv("sokoban"), LamerGymEnv("sokoban")
    one.reset(seed=3)
    two.reset(seed=3)
    following = [one.reset()[0] for _ in range(5)]
    assert following == [two.reset()[0] for _ in range(5)]
    assert len(set(following)) == 5


def test_an_instance_can_be_given() -> None:
    adapter = LamerGymEnv("sokoban")
    observation, info = adapter.reset(options={"instance": {"xsb": ["#####", "#@$.#", "#####"]}})
    assert observation == "# # # # #\n# @ $ . #\n# # # # #"
    assert info["seed"] is None
    assert adapter.step("right")[2]


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="max_turns"):
        LamerGymEnv("sokoban", max_turns=0)
    with pytest.raises(ValueError, match="render_mode"):
        LamerGymEnv("sokoban", render_mode="human")
    with pytest.raises(RuntimeError, match="reset"):
        LamerGymEnv("sokoban").step("up")
