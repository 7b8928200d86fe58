"""The goals of WebShop: their order, their splits, and goals from outside."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamer_envs import EnvParameterError, InstanceError, make
from lamer_envs.webshop.env import Webshop
from lamer_envs.webshop.goals import NO_LIMIT, canonical, split_sizes, upper_bound
from webshop_data import LEVEL, data


def shop(**params: Any) -> Webshop:
    env = make("webshop", **params)
    assert isinstance(env, Webshop)
    return env


def first(env: Webshop, split: str, count: int) -> list[int]:
    return list(itertools.islice(env.seeds(split), count))


def test_splits_are_five_hundred_then_a_thousand_then_the_rest() -> None:
    env = shop()
    assert len(env.shop.goals) == 5000
    assert first(env, "test", 502) == [*range(500), 5000, 5001]
    assert first(env, "val", 1001) == [*range(500, 1500), 5500]
    assert first(env, "train", 3501) == [*range(1500, 5000), 6500]
    for split in env.splits:
        assert {env.split_of(env.reset(seed)) for seed in first(env, split, 50)} == {split}


@given(st.integers(0, 20_000))
def test_splits_cover_all_goals_once_and_shrink_with_their_number(goals: int) -> None:
    sizes = split_sizes(goals)
    assert list(itertools.chain(sizes["test"], sizes["val"], sizes["train"])) == list(range(goals))
    assert len(sizes["test"]) <= 500
    assert len(sizes["val"]) <= 1000
    if goals >= 3:
        assert all(sizes.values())
    if goals >= 5000:
        assert (len(sizes["test"]), len(sizes["val"])) == (500, 1000)


def test_no_two_goals_are_the_same() -> None:
    env = shop()
    assert len({env.instance(env.reset(seed)) for seed in range(5000)}) == 5000


@pytest.mark.parametrize("spec", ["webshop:60", "webshop:60,goals=synthetic", "webshop:60,seed=9"])
def test_goals_and_splits_are_the_same_in_every_process(spec: str, tmp_path: Path) -> None:
    code = (
        "import itertools, json, sys; from lamer_envs import make; env = make(sys.argv[1]);"
        "take = lambda split: [env.instance(env.reset(s)) for s in itertools.islice(env.seeds(split), 8)];"
        "print(json.dumps([take(split) for split in env.splits]))"
    )
    told = set()
    for seed in ("0", "77"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "LAMER_GRAPH_CACHE": str(tmp_path / seed)}
        done = subprocess.run(
            [sys.executable, "-c", code, spec], env=environment, capture_output=True, text=True, check=True, timeout=60
        )
        told.add(done.stdout.strip())
    env = make(spec)
    told.add(json.dumps([[env.instance(env.reset(s)) for s in itertools.islice(env.seeds(n), 8)] for n in env.splits]))
    assert len(told) == 1


def test_a_retry_keeps_the_goal_whatever_was_bought() -> None:
    env, rng = shop(products=100), random.Random(1)
    for seed in range(40):
        start = env.reset(seed)
        state = start
        for _ in range(env.max_turns):
            step = env.step(state, env.weak(state, rng))
            assert env.instance(step.state) == env.instance(start)
            state = step.state
            if step.done:
                break
        assert env.reset(seed) == start


def test_seeds_wrap_around_and_may_be_any_integer() -> None:
    env = shop(products=20)
    assert env.reset(3) == env.reset(103)
    assert env.reset(-1) == env.reset(99)
    assert env.reset(10**30)["goal"] == 10**30 % 100


def test_the_order_is_one_shuffle_with_the_original_seed() -> None:
    """With official data, goal n is the original environment's goal n: same list before, same shuffle."""
    wishes = [
        {"instruction": f"wish {n}", "instruction_attributes": ["x"], "instruction_options": []} for n in range(50)
    ]
    people = {"B00SCARF01": wishes[:20], "B00SCARF02": wishes[20:], "B00FREE001": []}
    env = shop(data=data(human_instructions=people))
    expected = list(range(50))
    random.Random(233).shuffle(expected)
    got = [int(env.goal(env.reset(n))["instruction_text"].split(",")[0].split()[-1]) for n in range(50)]
    assert got == expected


# -- the price ------------------------------------------------------------------------------------------------------


@given(st.floats(0, 2000), st.integers())
def test_the_bound_is_the_larger_of_two_of_the_four_steps_above(price: float, seed: int) -> None:
    bound = upper_bound(price, random.Random(seed))
    above = [10.0 * n for n in range(1, 100) if 10.0 * n > price][:4]
    if len(above) < 2:
        assert bound == NO_LIMIT
    else:
        assert bound in above[1:]


def test_every_larger_of_two_steps_is_drawn_as_often_as_pairs_have_it() -> None:
    rng = random.Random(0)
    counts = {20.0: 0, 30.0: 0, 40.0: 0}
    for _ in range(6000):
        counts[upper_bound(5.0, rng)] += 1
    for bound, pairs in ((20.0, 1), (30.0, 2), (40.0, 3)):
        assert counts[bound] == pytest.approx(1000 * pairs, abs=150)


# -- human and synthetic goals --------------------------------------------------------------------------------------


def test_human_goals_list_their_options_and_skip_wishes_without_attributes() -> None:
    env = shop(data=data())
    goals = [env.goal(env.reset(n)) for n in range(len(env.shop.goals))]
    assert sorted(goal["asin"] for goal in goals) == ["B00FREE001", "B00RANGE01", "B00SCARF01"]
    goal = next(goal for goal in goals if goal["asin"] == "B00SCARF01")
    assert goal["goal_options"] == ["red", "long"]
    assert goal["weight"] == 1
    assert goal["price_upper"] in (40.0, 50.0, 60.0)
    assert goal["instruction_text"].endswith(f"{goal['price_upper']:.2f} dollars")
    assert goal["product_category"] == f"Clothing {LEVEL} Accessories {LEVEL} Scarves"
    assert set(goal) == {
        "asin", "category", "query", "name", "product_category", "instruction_text", "attributes", "price_upper",
        "goal_options", "weight",
    }  # fmt: skip


def test_synthetic_goals_are_one_for_each_combination_of_options() -> None:
    env = shop(data=data(), goals="synthetic")
    goals = [env.goal(env.reset(n)) for n in range(len(env.shop.goals))]
    combos = [goal["goal_options"] for goal in goals if goal["asin"] == "B00SCARF01"]
    assert sorted(combos, key=str) == [
        {"color": color, "size": size} for color in ("navy | white", "red") for size in ("long", "short")
    ]
    assert [goal["goal_options"] for goal in goals if goal["asin"] == "B00RANGE01"] == [{}]
    assert len(goals) == 5  # the others have no synthetic instruction
    # pure wool is asked for by all five goals, leak proof by one
    weights = {goal["asin"]: goal["weight"] for goal in goals}
    assert weights == {"B00SCARF01": pytest.approx(1 / 5), "B00RANGE01": pytest.approx((1 / 1 + 1 / 5) / 2)}


def test_without_human_instructions_the_goals_are_synthetic() -> None:
    parts = data()
    del parts["human_instructions"]
    assert isinstance(shop(data=parts).goal(shop(data=parts).reset(0))["goal_options"], dict)


def test_generated_goals_come_in_both_forms() -> None:
    listed, named = shop(products=30), shop(products=30, goals="synthetic")
    assert all(isinstance(listed.goal(listed.reset(n))["goal_options"], list) for n in range(150))
    assert all(isinstance(named.goal(named.reset(n))["goal_options"], dict) for n in range(50))
    starts = {" ".join(listed.goal(listed.reset(n))["instruction_text"].split()[:3]) for n in range(150)}
    assert len(starts) >= 8


# -- load -----------------------------------------------------------------------------------------------------------


def test_load_takes_a_position_or_the_goal_itself() -> None:
    env = shop(products=40)
    for at in range(0, 200, 17):
        state = env.load({"goal": at})
        assert state == env.reset(at)
        assert env.load({"goal": dict(env.goal(state))}) == state


def test_load_takes_a_file(tmp_path: Path) -> None:
    env = shop(products=20)
    file = tmp_path / "goal.json"
    file.write_text(json.dumps({"goal": 7}))
    assert env.load(file) == env.reset(7)


def test_a_goal_from_outside_is_played_and_kept_in_the_state() -> None:
    env = shop(data=data())
    state = env.load({"goal": {"asin": "B00SCARF02", "instruction_text": "navy!", "goal_options": {"color": "navy"}}})
    assert json.loads(json.dumps(state)) == state
    goal = env.goal(state)
    assert (goal["name"], goal["attributes"], goal["price_upper"]) == ("Skye wool scarf", [], NO_LIMIT)
    assert env.split_of(state) in env.splits
    plan = env.solve(state)
    assert plan is not None
    for action in plan:
        step = env.step(state, action)
        assert step.state["goal"] == state["goal"]
        state = step.state
    assert step.success


def test_goals_without_attributes_and_options_are_scored_by_the_price_alone() -> None:
    env = shop(data=data(), reward="score")
    base = {"asin": "B00SCARF01", "instruction_text": "a scarf", "attributes": [], "goal_options": []}
    for bound, reward in ((30.0, 1.0), (20.0, 0.0)):
        state = env.load({"goal": {**base, "price_upper": bound}})
        for action in ("search[hebrides]", "click[b00scarf01]", "click[buy now]"):
            step = env.step(state, action)
            state = step.state
        assert step.reward == reward
    assert env.admissible(env.load({"goal": base}))


def test_a_goal_of_another_catalogue_needs_its_own_words() -> None:
    env = shop(data=data())
    goal = {"asin": "B0ELSEWHER", "instruction_text": "x"}
    with pytest.raises(InstanceError, match="lacks 'query'; this catalogue has no product with its asin"):
        env.load({"goal": goal})
    whole = {**goal, "query": "wool scarf", "name": "wool scarf", "product_category": "Clothing"}
    state = env.load({"goal": whole})
    plan = env.solve(state)  # another scarf will do
    assert plan is not None
    assert plan[-1] == "click[buy now]"


@pytest.mark.parametrize(
    ("instance", "reason"),
    [
        ({"goal": 3}, "goal 3 does not exist; this shop has goals 0 to 2"),
        ({"goal": -1}, "does not exist"),
        ({"goal": True}, "a number or a mapping"),
        ({"goal": None}, "a number or a mapping"),
        ({"goal": []}, "a number or a mapping"),
        ({}, "a number or a mapping"),
        ({"goals": 1}, "unknown instance key 'goals'"),
        ({"goal": {"asin": "B00SCARF01"}}, "lacks 'instruction_text'"),
        ({"goal": {"instruction_text": "x"}}, "lacks 'asin'"),
        ({"goal": {"asin": 5, "instruction_text": "x"}}, "'asin' must be text"),
        ({"goal": {"asin": "B00SCARF01", "instruction_text": "x" * 5000}}, "at most 4000"),
        ({"goal": {"asin": "B00SCARF01", "instruction_text": "x", "attributes": "wool"}}, "'attributes' must hold"),
        ({"goal": {"asin": "B00SCARF01", "instruction_text": "x", "goal_options": [1]}}, "'goal_options' must hold"),
        ({"goal": {"asin": "B00SCARF01", "instruction_text": "x", "goal_options": {"a": None}}}, "'goal_options'"),
        (
            {"goal": {"asin": "B00SCARF01", "instruction_text": "x", "price_upper": "9"}},
            "'price_upper' must be a number",
        ),
        ({"goal": {"asin": "B00SCARF01", "instruction_text": "x", "price_upper": float("nan")}}, "'price_upper'"),
        (Path("no/such/file.json"), "cannot be read"),
    ],
)
def test_wrong_instances_are_refused_with_one_clear_line(instance: Any, reason: str) -> None:
    with pytest.raises(InstanceError, match=reason) as caught:
        shop(data=data()).load(instance)
    assert "\n" not in str(caught.value)


# -- specs and parameters -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "canonical_spec"),
    [
        ("webshop", "webshop:1000"),
        ("webshop:50", "webshop:50"),
        ("webshop:reward=score", "webshop:1000,reward=score"),
        ("webshop:50,seed=3,goals=synthetic", "webshop:50,goals=synthetic,seed=3"),
        ("webshop:seed=0,50,reward=binary,goals=human", "webshop:50"),
    ],
)
def test_a_spec_is_all_it_takes(spec: str, canonical_spec: str) -> None:
    env = make(spec)
    assert env.spec == canonical_spec
    assert make(env.spec) == env
    assert pickle.loads(pickle.dumps(env)) == env
    assert shop(**{key: value for key, value in env.params.items() if value is not None}) == env


def test_a_shop_of_data_in_memory_is_made_again_while_it_lives() -> None:
    env = shop(data=data(), reward="score")
    assert make(env.spec) == env
    copy = pickle.loads(pickle.dumps(env))
    assert copy == env
    assert copy.reset(1) == env.reset(1)
    with pytest.raises(EnvParameterError, match="made from data in memory"):
        make("webshop:data=inline-0123456789abcdef")


def test_shops_with_different_data_are_different() -> None:
    assert shop(data=data()) != shop(data=data(human_instructions={}))
    assert shop(data=data()).shop is shop(data=data(), reward="score").shop


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"products": 0}, "products must be an integer from 1"),
        ({"products": True}, "products must be an integer"),
        ({"products": "9"}, "products must be an integer"),
        ({"seed": -1}, "seed must be"),
        ({"reward": "Score"}, "reward must be binary or score"),
        ({"goals": "all"}, "goals must be human or synthetic"),
        ({"data": 7}, "a folder or a mapping"),
        ({"data": ""}, "a folder or a mapping"),
        ({"data": data(), "seed": 2}, "nothing to draw"),
    ],
)
def test_wrong_parameters_are_refused(params: dict[str, Any], reason: str) -> None:
    with pytest.raises(EnvParameterError, match=reason):
        shop(**params)


@pytest.mark.parametrize(
    "spec", ["webshop:x", "webshop:10,20", "webshop:price=3", "webshop:-5", "webshop:seed=", "webshop:1e3"]
)
def test_wrong_specs_are_refused(spec: str) -> None:
    with pytest.raises(EnvParameterError):
        make(spec)


def test_a_shop_without_goals_still_plays_yours() -> None:
    env = shop(data=data(human_instructions={}, attributes={}))
    for ask in (lambda: env.reset(0), lambda: env.seeds("train")):
        with pytest.raises(EnvParameterError, match="no synthetic goal with attributes"):
            ask()
    assert env.load({"goal": {"asin": "B00SCARF01", "instruction_text": "x"}})["page"] == "search"


def test_a_shop_with_too_few_goals_has_no_test_split() -> None:
    wish = {"instruction": "x", "instruction_attributes": ["y"], "instruction_options": []}
    env = shop(data=data(human_instructions={"B00SCARF01": [wish]}))
    assert first(env, "train", 2) == [0, 1]
    with pytest.raises(EnvParameterError, match="1 goals, too few for a split 'test'"):
        env.seeds("test")
    with pytest.raises(EnvParameterError, match="no split 'ood'"):
        env.seeds("ood")


def test_instances_do_not_depend_on_weights() -> None:
    goal = {"asin": "x", "weight": 1}
    assert canonical(goal) == canonical({**goal, "weight": 2}) != canonical({**goal, "asin": "y"})
