"""Our rules of ALFWorld against the original's, side by side in the real TextWorld. Needs the extra `alfworld`."""

from __future__ import annotations

import json
import random
import runpy
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from alfworld_problems import GOALS, kitchen, plain
from lamer_envs import Env, EnvParameterError, InstanceError, State, make
from lamer_envs.alfworld.data import KIND_OF_TASK
from lamer_envs.alfworld.experts import Explorer, plan
from lamer_envs.alfworld.house import KINDS, house
from lamer_envs.checker import check_env

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
for module in ("textworld", "fast_downward", "alfworld"):
    pytest.importorskip(module, reason="no extra `alfworld` here: make test-textworld", exc_type=ImportError)

TURNS = 20
ODD = ("go to nowhere 1", "take apple 1", "use fridge 1", "examine", "put it down", "heat fridge 1 with fridge 1")


@pytest.fixture(scope="module")
def original() -> Env:
    return make("alfworld", engine="textworld")


def play_both(native: Env, original: Env, ours: State, theirs: State, player: str, rng: random.Random) -> int:
    """Play one episode in both and compare at every turn; gives the number of commands."""
    explorer, h = Explorer(), house(ours["house"])
    for turn in range(TURNS):
        assert sorted(native.admissible(ours)) == sorted(original.admissible(theirs)), (player, turn, ours)
        if turn % 5 == 2:  # what ours refuses, TextWorld refuses
            odd = rng.choice(ODD)
            assert not native.step(ours, odd).valid
            assert not original.step(theirs, odd).valid
        expert = player == "expert" or (player == "mixed" and rng.random() < 0.5)
        knowing = plan(h, ours) if expert else None
        command = knowing[0] if knowing else rng.choice(native.admissible(ours))
        if player == "explorer":
            command = explorer.act(h, ours)
        mine, other = native.step(ours, command), original.step(theirs, command)
        assert (mine.valid, mine.success, mine.done, mine.reward) == (
            other.valid,
            other.success,
            other.done,
            other.reward,
        ), (player, turn, command)
        ours, theirs = mine.state, other.state
        if mine.done:
            return turn + 1
    return TURNS


@pytest.mark.parametrize("kind", KINDS)
def test_generated_games_offer_the_same_commands_and_are_won_together(
    kind: str, original: Env, record_property: Callable[[str, object], None]
) -> None:
    native = make("alfworld", types=kind, max_turns=30)
    commands = 0
    for seed in range(4):
        for player in ("expert", "random", "mixed", "explorer"):
            ours = native.reset(seed)
            theirs = make("alfworld", types=kind, max_turns=30, engine="textworld").reset(seed)
            assert ours["house"] == theirs["house"]
            commands += play_both(native, original, ours, theirs, player, random.Random(f"{kind}{seed}{player}"))
    assert commands > 60
    record_property("commands", commands)


@pytest.mark.parametrize("kind", GOALS)
def test_a_kitchen_in_the_official_form_plays_the_same(kind: str, original: Env) -> None:
    """Shared places, two holders of one object, slicing, an unreachable safe, an apple that starts cold."""
    native = make("alfworld")
    instance = {"pddl_problem": kitchen(kind), "goal": "do it"}
    for player in ("expert", "random", "random", "mixed"):
        play_both(native, original, native.load(instance), original.load(instance), player, random.Random(player))


def test_a_problem_with_plain_identifiers_plays_the_same(original: Env) -> None:
    native = make("alfworld")
    instance = {"pddl_problem": plain()}
    for player in ("expert", "random"):
        play_both(native, original, native.load(instance), original.load(instance), player, random.Random(player))


@pytest.mark.parametrize("kind", KINDS)
def test_the_originals_own_goal_of_each_type_is_read_as_that_type(kind: str) -> None:
    """ALFWorld's library of goals, from which the official problems were written; it has `#` for the `-` of types."""
    spec = find_spec("alfworld")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    library = runpy.run_path(str(Path(spec.submodule_search_locations[0]) / "gen" / "goal_library.py"))["gdict"]
    name = next(name for name, own in KIND_OF_TASK.items() if own == kind)
    goal = library[name]["pddl"].format(obj="Mug", recep="SideTable", toggle="DeskLamp").replace("#", "-")
    text = kitchen().partition("(:goal")[0] + goal  # the templates end with the bracket that ends the problem
    h = house(make("alfworld").load({"pddl_problem": text})["house"])
    assert (h.kind, h.thing, h.target) == (kind, "mug", "desklamp" if kind == "look" else "sidetable")


def test_slicing_is_offered_where_the_original_offers_it(original: Env) -> None:
    native = make("alfworld")
    instance = {"pddl_problem": kitchen("heat")}
    ours, theirs = native.load(instance), original.load(instance)
    commands = ["go to drawer 1", "take knife 1 from drawer 1", "go to fridge 1", "slice apple 2 with knife 1"]
    for command in [*commands, "go to countertop 1", "slice apple 3 with knife 1", "move knife 1 to countertop 1"]:
        assert sorted(native.admissible(ours)) == sorted(original.admissible(theirs))
        mine, other = native.step(ours, command), original.step(theirs, command)
        assert mine.valid == other.valid is True, command
        ours, theirs = mine.state, other.state
    assert sorted(native.admissible(ours)) == sorted(original.admissible(theirs))


def test_the_same_game_file_plays_in_both_engines(tmp_path: Path, original: Env) -> None:
    from lamer_envs.alfworld.textworld import game_of

    native = make("alfworld")
    h = house(native.load({"pddl_problem": kitchen("clean"), "goal": "put a clean mug on the sidetable"})["house"])
    parts = game_of(h, {"pddl_problem": kitchen("clean")}) | {"solvable": True}
    path = tmp_path / "game.tw-pddl"
    path.write_text(json.dumps(parts), "utf-8")
    ours, theirs = native.load(path), original.load(path)
    assert "Your task: put a clean mug on the sidetable." in native.observe(ours)
    assert "put a clean mug on the sidetable" in original.observe(theirs)
    assert play_both(native, original, ours, theirs, "expert", random.Random(0)) == 7


def test_a_textworld_state_plays_on_by_itself() -> None:
    """A state is data: another process, or one that has played on meanwhile, gives the same answer."""
    env = make("alfworld:pick-textworld")
    first = env.reset(3)
    command = env.admissible(first)[0]
    once = env.step(first, command)
    for other in env.admissible(once.state)[:3]:
        env.step(once.state, other)
    assert env.step(json.loads(json.dumps(first)), command) == once


def test_the_textworld_engine_keeps_the_protocol() -> None:
    check_env(make("alfworld:pick-textworld"), tasks=1, per_split=1)


def test_a_game_that_textworld_cannot_load_is_an_instance_error(original: Env) -> None:
    twice = kitchen().replace("    Apple - object\n", "    Apple - object\n    Mug - object\n", 1)
    with pytest.raises(InstanceError, match="TextWorld cannot load"):
        original.load({"pddl_problem": twice})


def test_ours_is_at_least_500_times_as_fast() -> None:
    native, original = make("alfworld"), make("alfworld", engine="textworld")

    def rate(env: Env, seeds: range) -> float:
        spent, commands = 0.0, 0
        for seed in seeds:
            rng, state = random.Random(seed), env.reset(seed)
            start = time.perf_counter()
            for _ in range(10):
                step = env.step(state, rng.choice(env.admissible(state)))
                commands += 1
                state = step.state
                if step.done:
                    break
            spent += time.perf_counter() - start
        return commands / spent

    rate(native, range(20))
    assert rate(native, range(300)) >= 500 * rate(original, range(5))


def test_missing_parameters_are_refused_as_with_the_native_engine() -> None:
    with pytest.raises(EnvParameterError, match="engine"):
        make("alfworld", engine="thor")
