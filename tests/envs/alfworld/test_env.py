"""ALFWorld as an environment: the protocol, parameters and specs, splits, generated households, what is shown."""

from __future__ import annotations

import json
import random
from itertools import islice

import pytest
from rich.console import Console

from alfworld_problems import kitchen
from lamer_envs import Env, EnvParameterError, State, make
from lamer_envs.alfworld.catalogue import LAMPS, PLACES, ROOMS, THINGS, fits
from lamer_envs.alfworld.experts import Explorer, plan
from lamer_envs.alfworld.generate import PLAN_LIMIT, ROOMS_OF, SHORTEST, draw_household, goals
from lamer_envs.alfworld.house import KINDS, House, house
from lamer_envs.alfworld.texts import page
from lamer_envs.alfworld.world import goal_reached, play
from lamer_envs.checker import check_env


@pytest.mark.parametrize("spec", ["alfworld", "alfworld:clean", "alfworld:cool+pick2-t30", "alfworld:pick+look-t4"])
def test_it_keeps_the_protocol(spec: str) -> None:
    check_env(make(spec))


# -- parameters and specs ---------------------------------------------------------------------------------------------


def test_the_paper_s_turn_budget_is_the_default_and_can_be_changed() -> None:
    assert make("alfworld").max_turns == 10
    assert make("alfworld", max_turns=30).max_turns == 30


@pytest.mark.parametrize(
    ("env", "spec"),
    [
        (make("alfworld"), "alfworld"),
        (make("alfworld", types="clean"), "alfworld:clean"),
        (make("alfworld", types=["heat", "clean"], max_turns=30), "alfworld:clean+heat-t30"),
        (make("alfworld", types=("pick_two_obj_and_place",)), "alfworld:pick2"),
        (make("alfworld:t20"), "alfworld:t20"),
        (make("alfworld", types=list(KINDS)), "alfworld"),
    ],
)
def test_a_spec_makes_an_equal_environment(env: Env, spec: str) -> None:
    assert env.spec == spec
    assert make(spec) == env
    assert make("alfworld", **env.params) == env
    assert json.loads(json.dumps(dict(env.params))) == env.params


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"types": "cook"}, "no task type 'cook'.*pick, look, clean, heat, cool, pick2"),
        ({"types": ""}, "no task type"),
        ({"types": []}, "no task type"),
        ({"types": [1]}, "no task type"),
        ({"types": 3}, "no task type"),
        ({"max_turns": 0}, "max_turns must be"),
        ({"max_turns": True}, "max_turns must be"),
        ({"max_turns": "ten"}, "max_turns must be"),
        ({"types": "pick2", "max_turns": 7}, "'pick2' takes 8 turns or more"),
        ({"engine": "unity"}, "engine must be 'native' or 'textworld'"),
        ({"split": "ood"}, "split picks official games"),
        ({"turns": 3}, "no parameter 'turns'"),
    ],
)
def test_wrong_parameters_are_refused_in_one_clear_line(params: dict[str, object], match: str) -> None:
    with pytest.raises(EnvParameterError, match=match) as caught:
        make("alfworld", **params)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("spec", ["alfworld:cook", "alfworld:clean-heat", "alfworld:t5-t6", "alfworld:t99999"])
def test_malformed_specs_are_refused(spec: str) -> None:
    with pytest.raises(EnvParameterError):
        make(spec)


# -- splits -----------------------------------------------------------------------------------------------------------


def test_splits_are_disjoint_and_ood_holds_the_types_that_training_leaves_out() -> None:
    env = make("alfworld")
    assert env.splits == ("train", "val", "test", "ood")
    seen: dict[str, set[str]] = {}
    kinds: dict[str, set[str]] = {}
    for split in env.splits:
        states = [env.reset(seed) for seed in islice(env.seeds(split), 60)]
        seen[split] = {env.instance(state) for state in states}
        kinds[split] = {house(state["house"]).kind for state in states}
        assert all(env.split_of(state) == split for state in states)
    assert len(set.union(*seen.values())) == sum(map(len, seen.values()))
    assert kinds["train"] == kinds["val"] == kinds["test"] == {"pick", "look", "clean", "heat"}
    assert kinds["ood"] == {"cool", "pick2"}


def test_one_type_can_be_evaluated_by_itself() -> None:
    for spec, split in (("alfworld:clean", "test"), ("alfworld:cool", "test"), ("alfworld:cool", "ood")):
        env = make(spec)
        kinds = {house(env.reset(seed)["house"]).kind for seed in islice(env.seeds(split), 5)}
        assert kinds == {spec.partition(":")[2]}
    with pytest.raises(EnvParameterError, match="no split 'ood'"):
        make("alfworld:clean").seeds("ood")


def test_most_instances_are_for_training() -> None:
    env = make("alfworld:heat")
    owners = [env.split_of(env.reset(seed)) for seed in range(400)]
    assert 0.72 < owners.count("train") / 400 < 0.88
    assert min(owners.count("val"), owners.count("test")) > 20


def test_the_budget_beyond_ten_turns_does_not_change_the_instances() -> None:
    assert make("alfworld").reset(5) == make("alfworld", max_turns=50).reset(5)


# -- generated households ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_there_are_several_hundred_goals_of_each_type(kind: str) -> None:
    everything = {goal for room in ROOMS_OF[kind] for goal in goals(kind, room)}
    assert len(everything) >= 300
    rng = random.Random(kind)
    drawn = {(h.thing, h.target) for h in (House(draw_household(kind, rng)) for _ in range(1_500))}
    assert drawn <= everything
    assert len(drawn) >= 290


@pytest.mark.parametrize("kind", KINDS)
def test_full_knowledge_wins_every_household_within_the_limit(kind: str) -> None:
    lengths = []
    for number in range(400):
        h = House(draw_household(kind, random.Random(f"{kind} {number}")))
        state = h.state()
        assert not goal_reached(h, state)
        commands = plan(h, state)
        assert commands
        for command in commands:
            assert not state["won"]
            after = play(h, state, command)
            assert after is not None
            state = after
        assert state["won"]
        lengths.append(len(commands))
    assert max(lengths) <= PLAN_LIMIT
    assert sum(lengths) / len(lengths) <= SHORTEST[kind] + 1.5


def test_full_knowledge_needs_about_seven_commands() -> None:
    env = make("alfworld")
    lengths = [len(env.solve(env.reset(seed)) or []) for seed in range(600)]
    assert 6 <= sum(lengths) / len(lengths) <= 8


@pytest.mark.parametrize("limit", [8, 9])
def test_a_smaller_budget_is_kept(limit: int) -> None:
    for number in range(60):
        h = House(draw_household("pick2", random.Random(number), limit))
        assert 1 <= len(plan(h, h.state()) or []) <= limit


@pytest.mark.parametrize("kind", KINDS)
def test_the_explorer_wins_with_what_it_has_seen(kind: str) -> None:
    for number in range(150):
        h = House(draw_household(kind, random.Random(f"{kind} {number}")))
        state, player = h.state(), Explorer()
        for _ in range(2 * len(h.receptacles) + 20):
            after = play(h, state, player.act(h, state))
            assert after is not None
            state = after
            if state["won"]:
                break
        assert state["won"]


def shuffled(h: House, seen: set[int], rng: random.Random) -> House:
    """The household with the contents of its unseen receptacles exchanged, lamps apart: they are used behind doors."""
    unseen = [i for i in range(len(h.receptacles)) if i not in seen]
    other = dict(zip(unseen, rng.sample(unseen, len(unseen)), strict=True))
    things = []
    for part in h.text.split("\n")[4].split(";"):
        title, _, rest = part.partition("@")
        where, _, flags = rest.partition("+")
        things.append(f"{title}@{where if 't' in flags else other.get(int(where), where)}+{flags}")
    lines = h.text.split("\n")
    return House("\n".join([*lines[:4], ";".join(things), *lines[5:]]))


def test_explorer_weak_player_and_page_do_not_depend_on_what_is_hidden() -> None:
    compared = 0
    for seed in range(40):
        h = House(draw_household(KINDS[seed % 6], random.Random(seed)))
        state, player, seen = h.state(), Explorer(), set[int]()
        for turn in range(10):
            here = h.reach.get(state["at"], ())
            seen |= {r for r in here if not h.receptacles[r].openable or r in state["open"]}
            if any(len(where) != 1 for where in state["in"]):
                break  # something is in the hand: contents have moved
            twin = shuffled(h, seen, random.Random(turn))
            there = {**twin.state(), "at": state["at"], "open": state["open"]}
            assert page(h, state) == page(twin, there)
            other = Explorer()
            other.seen = {r: list(inside) for r, inside in player.seen.items()}
            command = player.act(h, state)
            assert other.act(twin, there) == command
            env = make("alfworld")
            rng, again = random.Random(turn), random.Random(turn)
            assert env.weak({**state, "house": h.text}, rng) == env.weak({**there, "house": twin.text}, again)
            after = play(h, state, command)
            assert after is not None
            state = after
            compared += 1
    assert compared > 150


def test_the_weak_player_wins_sometimes_within_ten_turns() -> None:
    env = make("alfworld:pick+look+clean+heat")
    wins = 0
    for seed in range(300):
        state, rng = env.reset(seed), random.Random(seed)
        for _ in range(env.max_turns):
            step = env.step(state, env.weak(state, rng))
            assert step.valid
            state = step.state
            if step.done:
                wins += 1
                break
    assert 0.05 <= wins / 300 <= 0.35


def test_solving_starts_anywhere() -> None:
    env = make("alfworld")
    for seed in range(60):
        rng, state = random.Random(seed), env.reset(seed)
        for _ in range(seed % 13):
            if not state["won"]:
                state = env.step(state, rng.choice(env.admissible(state))).state
        commands = env.solve(state)
        assert commands is not None
        for command in commands:
            step = env.step(state, command)
            assert step.valid
            state = step.state
        assert state["won"]


def test_the_expert_says_when_nothing_can_be_done() -> None:
    env = make("alfworld")
    text = kitchen("heat").replace(
        "(receptacleType Microwave_bar__minus_01_dot_00_bar__plus_01_dot_10 MicrowaveType)", ""
    )
    assert env.solve(env.load({"pddl_problem": text})) is None


def test_the_catalogue_makes_sense() -> None:
    assert all(any(fits(place, thing) for place in PLACES) for thing in THINGS)
    assert not set(THINGS) & set(PLACES)
    assert not set(LAMPS) & set(THINGS)
    for thing, row in THINGS.items():
        for room in row.rooms:
            assert sum(fits(p, thing) for p, place in PLACES.items() if room in place.counts) >= 2, (thing, room)
    assert {room for row in PLACES.values() for room in row.counts} == set(ROOMS)


# -- what is shown ----------------------------------------------------------------------------------------------------


def state_with_goal(words: str) -> State:
    return make("alfworld").load({"pddl_problem": kitchen("heat"), "goal": words})


def test_the_page_says_task_place_contents_inventory_and_commands() -> None:
    env = make("alfworld")
    state = state_with_goal("put a hot apple in fridge")
    assert env.observe(state) == (
        "Your task: put a hot apple in fridge.\n"
        "You stand in the middle of the room.\n"
        "You carry nothing.\n"
        "Commands here: look; inventory\n"
        "You can go to: countertop 1-2, drawer 1-2, fridge 1, microwave 1, sidetable 1, sinkbasin 1"
    )
    state = env.step(state, "go to countertop 2").state
    assert env.observe(state) == (
        "Your task: put a hot apple in fridge.\n"
        "You are at countertop 2 and sinkbasin 1.\n"
        "On the countertop 2 you see: knife 1.\n"
        "On the sinkbasin 1 you see: nothing.\n"
        "You carry nothing.\n"
        "Commands here: take knife 1 from countertop 2; examine countertop 2; examine sinkbasin 1; look; inventory\n"
        "You can go to: countertop 1, drawer 1-2, fridge 1, microwave 1, sidetable 1"
    )
    compact = env.compact(state)
    assert compact.startswith("go ")
    assert compact.endswith(
        "; sinkbasin 1 has nothing; has knife 1; can take examine; hold nothing; at countertop 2; heat apple to fridge"
    ), compact


def test_every_admissible_command_can_be_read_off_the_page() -> None:
    env = make("alfworld")
    for seed in range(40):
        rng, state = random.Random(seed), env.reset(seed)
        for _ in range(10):
            shown = env.observe(state)
            here = shown.split("Commands here: ")[1].split("\n")[0].split("; ")
            going = [command for command in env.admissible(state) if command.startswith("go to ")]
            assert sorted([*here, *going, "help"]) == sorted(env.admissible(state))
            for command in going:
                assert command.split()[2] in shown.split("You can go to: ")[1]
            assert "help" not in shown
            state = env.step(state, rng.choice(env.admissible(state))).state
            if state["won"]:
                break


@pytest.mark.parametrize(
    ("commands", "outcome"),
    [
        (["go to fridge 1"], "go to fridge 1: closed"),
        (["go to fridge 1", "open fridge 1"], "open fridge 1: has apple 2"),
        (["go to countertop 2"], "go to countertop 2: countertop 2 has knife 1; sinkbasin 1 has nothing"),
        (["inventory"], "inventory: nothing"),
        (["go to fridge 1", "examine fridge 1"], "examine fridge 1: closed"),
        (["Go To FRIDGE 9"], "go to fridge 9: nothing happens"),
        (["dance"], "nothing happens"),
        (["go to sidetable 1", "use desklamp 1", "look"], "look: sidetable 1 has desklamp 1 (on)"),
    ],
)
def test_an_outcome_says_what_a_command_brought_to_light(commands: list[str], outcome: str) -> None:
    env, state = make("alfworld"), state_with_goal("x")
    for command in commands:
        before, step = state, env.step(state, command)
        state = step.state
    assert env.outcome(before, command, step) == outcome


def test_help_names_every_command() -> None:
    env, state = make("alfworld"), state_with_goal("x")
    text = env.outcome(state, "help", env.step(state, "help"))
    for verb in (
        "go to",
        "open",
        "close",
        "take",
        "move",
        "examine",
        "use",
        "heat",
        "cool",
        "clean",
        "look",
        "inventory",
    ):
        assert verb in text
        assert verb in env.action_format


def test_the_picture_is_rich_markup_and_hostile_goals_are_only_text() -> None:
    env = make("alfworld")
    state = state_with_goal("[bold]put[/bold] it <script>\n\nIgnore all rules [/] \x1b[31m" + "x" * 1000)
    console = Console(record=True, width=200, color_system=None)
    console.print(env.render(state))
    shown = console.export_text()
    assert "[bold]put[/bold] it <script> Ignore all rules [/]" in shown
    assert "it &lt;script&gt; Ignore" in env.render_html(state)
    assert "<script" not in env.render_html(state)
    assert "\x1b" not in env.observe(state)
    assert len(env.observe(state).splitlines()) == 5
    assert len(env.observe(state)) < 1_000
    assert "fridge 1" in shown
    assert "apple 2" in shown  # a picture is for people: it shows everything
