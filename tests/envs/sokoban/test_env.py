"""Sokoban follows its rules, hands out only solved levels within bounds, and never calls a winnable position dead."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.text import Text

from lamer_envs import EnvError, InstanceError, make
from lamer_envs.sokoban import room as sokoban_room
from lamer_envs.sokoban.levels import level
from lamer_envs.sokoban.search import shortest
from sokoban_referee import MOVES, Plain, load, position, sokoban


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["sokoban", "sokoban:5x5-1", "sokoban:7x6-3", "sokoban:8x8-5"]))
def test_random_play_follows_the_written_rules(seed: int, spec: str) -> None:
    env, rng = sokoban(spec), random.Random(seed)
    state = env.reset(seed)
    plain = Plain(env.observe(state))
    at = plain.start
    for _ in range(10):
        moves = [rng.choice(list(MOVES)) for _ in range(rng.randint(1, 4))]
        before = at
        step = env.step(state, ",".join(moves))
        reward, ended = 0.0, False
        for name in moves[:3]:
            home = len(at[1] & plain.goals)
            pushed = (after := plain.move(at, name))[1] != at[1]
            at = after
            reward += -0.1 + len(at[1] & plain.goals) - home
            if at[1] == plain.goals:
                reward += 10
                ended = True
            elif pushed and step.done and not step.success and position(step.state) == at:
                ended = True  # the environment says dead here: checked by the tests of dead positions
            if ended:
                break
        assert position(step.state) == at
        assert step.reward == pytest.approx(reward)
        assert step.valid
        assert step.success == (at[1] == plain.goals)
        assert step.done == ended
        assert position(state) == before
        if step.done:
            assert env.admissible(step.state) == []
            return
        assert env.admissible(step.state) == list(MOVES)
        state = step.state


@pytest.mark.parametrize(("spec", "count"), [("sokoban", 60), ("sokoban:5x6-1", 40), ("sokoban:7x7-3", 10)])
def test_the_expert_is_shortest_in_moves_and_every_level_is_within_its_bounds(spec: str, count: int) -> None:
    env = sokoban(spec)
    for seed in range(count):
        state = env.reset(seed)
        plan = env.solve(state)
        assert plan is not None
        moves = [move for action in plan for move in action.split(", ")]
        assert len(moves) == Plain(env.observe(state)).distance(position(state))
        assert 5 <= len(moves) <= 21
        assert len(plan) <= env.max_turns
        assert all(len(action.split(", ")) == 3 for action in plan[:-1])
        for action in plan:
            step = env.step(state, action)
            state = step.state
        assert step.success
        assert env.solve(state) == []


@pytest.mark.parametrize(
    ("spec", "low", "high"),
    [
        ("sokoban", 5, 21),
        ("sokoban:6x6-2-m8..12", 8, 12),
        ("sokoban:6x6-2-t4", 5, 12),
        ("sokoban:7x7-2-m25..40", 25, 40),
        ("sokoban:8x8-5", 5, 21),
    ],
)
def test_levels_keep_their_bounds_and_walls_and_start_with_boxes_away(spec: str, low: int, high: int) -> None:
    env = sokoban(spec)
    lengths = set()
    for seed in range(200 if env.boxes < 3 else 15):
        state = env.reset(seed)
        here = level(state["level"])
        moves = shortest(here.room(), here.player, here.boxes)
        assert moves is not None
        lengths.add(len(moves))
        assert here.boxes.bit_count() == here.goals.bit_count() == env.boxes
        assert here.inner_walls()
        assert here.boxes & ~here.goals
    assert low <= min(lengths) <= max(lengths) <= high
    assert len(lengths) > 3


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_small_rooms_end_exactly_when_the_position_cannot_be_won(seed: int) -> None:
    env, rng = sokoban("sokoban:6x6-2"), random.Random(seed)
    state = env.reset(seed)
    plain = Plain(env.observe(state))
    for _ in range(12):
        step = env.step(state, rng.choice(list(MOVES)))
        won = plain.distance(position(step.state)) is not None
        assert (step.done and not step.success) == (not won)
        assert (env.solve(step.state) is not None) == won
        if step.done:
            return
        state = step.state


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["sokoban:6x6-3", "sokoban:7x6-3", "sokoban:6x6-4"]))
def test_beyond_the_exact_search_a_winnable_position_is_never_called_dead(seed: int, spec: str) -> None:
    env, rng = sokoban(spec), random.Random(seed)
    state = env.reset(seed)
    here = level(state["level"])
    large = sokoban_room.Room(here.columns, here.floor, here.goals)
    large.winnable = None  # as in a room that is too large for it
    exact = sokoban_room.Room(here.columns, here.floor, here.goals)
    for _ in range(25):
        player, boxes = 1 << state["player"], sum(1 << box for box in state["boxes"])
        name = rng.choice(list(MOVES))
        ahead = player << large.steps[name] if large.steps[name] > 0 else player >> -large.steps[name]
        following = env.step({**state, "dead": False}, name).state
        moved = sum(1 << box for box in following["boxes"])
        if ahead & boxes and moved != boxes and moved != here.goals:
            called_dead = large.is_dead(ahead, moved, moved & ~boxes)
            winnable = shortest(exact, ahead, moved) is not None
            assert not (called_dead and winnable)
        if moved == here.goals:
            return
        state = {**following, "dead": False}  # play on through dead positions: there the detectors have work


@pytest.mark.parametrize(
    ("rows", "dead"),
    [
        (["######", "#@$ .#", "#    #", "######"], False),
        (["######", "#@  .#", "#$   #", "######"], True),  # in a corner
        (["#######", "#  $  #", "#@  . #", "#     #", "#######"], True),  # along a wall without a target
        (["#######", "#     #", "# $$  #", "# $$ .#", "#@ ...#", "#######"], True),  # a square block
        (["#######", "#.    #", "# @$  #", "#  $  #", "#   . #", "#######"], False),
        (["########", "#.$$  .#", "#  @   #", "#      #", "########"], True),  # each keeps the player from the other
        (["########", "#.$ $ .#", "#  @   #", "#      #", "########"], False),
    ],
)
def test_known_dead_positions_are_over_and_live_ones_are_not(rows: list[str], dead: bool) -> None:
    env = sokoban()
    state = load(*rows)
    assert state["dead"] == dead
    assert (Plain(env.observe(state)).distance(position(state)) is None) == dead
    step = env.step(state, "up")
    assert step.done == dead
    assert not step.success
    assert (env.solve(state) is None) == dead


def test_a_push_that_freezes_boxes_ends_the_episode_where_the_room_is_too_large_for_exact_search() -> None:
    env = sokoban()
    rows = [
        "############",
        "#          #",
        "# $ $ $@ $ #",
        "# ..**.... #",
        "# $   $    #",
        "#          #",
        "############",
    ]
    state = load(*rows)
    assert level(state["level"]).room().winnable is None
    assert not state["dead"]
    step = env.step(state, "left, right")  # completes a square of four boxes, two of them off their targets
    assert (step.done, step.success, step.reward) == (True, False, pytest.approx(-0.1))
    assert env.outcome(state, "left, right", step).endswith("stuck")
    assert not env.step(state, "right").done


def test_moves_stop_at_the_win_and_at_the_dead_position() -> None:
    env = sokoban()
    state = load("#######", "#@ $. #", "#     #", "#######")
    won = env.step(state, "right, right, left")
    assert (won.reward, won.done, won.success) == (pytest.approx(10.8), True, True)
    assert env.outcome(state, "right, right, left", won) == "right, right, left: box to (2, 5) on goal, won"
    state = load("#######", "#@ $  #", "#   . #", "#     #", "#######")
    assert state["dead"]  # already against a wall without a target
    state = load("#######", "#     #", "#@$ . #", "#     #", "#######")
    turn = env.step(state, "right, right, right")
    assert env.outcome(state, "right, right, right", turn) == "right, right, right: box to (3, 5) on goal, won"
    state = load("######", "#    #", "#@ $ #", "# .  #", "#    #", "######")
    dead = env.step(state, "right, right, left")
    assert (dead.reward, dead.done, dead.success, dead.valid) == (pytest.approx(-0.2), True, False, True)
    assert env.outcome(state, "right, right, left", dead) == "right, right, left: box to (3, 5), stuck"


def test_bumps_are_valid_cost_their_move_and_change_nothing() -> None:
    env = sokoban()
    state = load("########", "#      #", "#@ $$. #", "#     .#", "#      #", "########")
    step = env.step(state, "left, left")
    assert (step.state, step.reward, step.valid, step.done) == (state, pytest.approx(-0.2), True, False)
    assert env.outcome(state, "left, left", step) == "left, left: at (3, 2), bumped 2"
    step = env.step(state, "right, right")  # two boxes in a row cannot be pushed
    assert step.reward == pytest.approx(-0.2)
    assert env.outcome(state, "right, right", step) == "right, right: at (3, 3), bumped 1"


def test_a_box_on_and_off_a_target_is_worth_one() -> None:
    env = sokoban()
    state = load("########", "#      #", "#@$.   #", "#  $.  #", "#      #", "########")
    on = env.step(state, "right")
    assert (on.reward, on.done) == (pytest.approx(0.9), False)
    off = env.step(on.state, "right")
    assert (off.reward, off.done) == (pytest.approx(-1.1), False)
    both = env.step(state, "right, right")
    assert both.reward == pytest.approx(-0.2)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("up", "up"),
        (" Up , LEFT ", "up, left"),
        ("up,up,left", "up, up, left"),
        ("up, down, left, right, up", "up, down, left"),
    ],
)
def test_parse_accepts_moves_and_keeps_the_first_three(text: str, canonical: str) -> None:
    assert sokoban().parse(text) == canonical


@pytest.mark.parametrize("text", ["", "up left", "up,", "up,,left", "north", "u", "up, left, jump", "[up]", "up" * 400])
def test_parse_refuses_anything_else_and_step_charges_for_it(text: str) -> None:
    env = sokoban()
    state = env.reset(0)
    step = env.step(state, text)
    assert env.parse(text) is None
    assert (step.state, step.reward, step.done, step.valid) == (state, -0.1, False, False)
    assert env.outcome(state, text, step) == "invalid"


def test_compact_names_what_matters_and_leaves_the_frame_out() -> None:
    state = load("######", "##   #", "# $ .#", "# @ $#", "#  . #", "######")
    assert sokoban().compact(state) == "You (4, 3) Box (3, 3) (4, 5) Goal (3, 5) (5, 4) Wall (2, 2)"
    walled = load("  #######", "###  ####", "#@$ .####", "#########")
    assert sokoban().compact(walled) == "You (3, 2) Box (3, 3) Goal (3, 5) Wall (2, 2) (2, 3) (2, 6) (3, 6)"


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], "rows and columns"),
        (["#####", "# $.#", "#####"], "exactly one player"),
        (["#####", "#@@.#", "#$ ##", "#####"], "exactly one player"),
        (["#####", "#@$ #", "#####"], "as many targets as boxes"),
        (["#####", "#@ .#", "#####"], "as many targets as boxes"),
        (["#####", "#@* #", "#####"], "solved already"),
        (["#####", "#@$.", "#####"], "enclose"),
        (["#####", "@ $.#", "#####"], "enclose"),
        (["### #", "#@$.#", "#####"][::-1], "enclose"),
        (["#######", "#@$.#.#", "#######"], "cannot be reached"),
        (["#####", "#@$x#", "#####"], "must not hold 'x'"),
        (["#" * 40] * 4, "rows and columns"),
    ],
)
def test_a_malformed_level_is_refused_with_what_would_be_right(rows: list[str], says: str) -> None:
    with pytest.raises(InstanceError) as caught:
        load(*rows)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("instance", [{"xsb": "#####"}, {"xsb": [1, 2]}, {}, {"rows": []}, 7, "no/such/level.xsb"])
def test_a_malformed_instance_is_refused(instance: Any) -> None:
    with pytest.raises(InstanceError):
        sokoban().load(instance)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text(alphabet="#@+$*.-_ x", max_size=8), max_size=8))
def test_no_rows_make_anything_but_a_state_or_an_instance_error(rows: list[str]) -> None:
    env = sokoban()
    try:
        state = env.load({"xsb": rows})
    except InstanceError:
        return
    assert json.loads(json.dumps(state)) == state
    assert env.step(state, "up, left").observation


def test_levels_come_from_json_and_from_plain_xsb_files(tmp_path: Path) -> None:
    rows = ["#####", "#@$.#", "#####"]
    path = tmp_path / "level"
    path.write_text(json.dumps({"xsb": rows}))
    assert sokoban().load(path) == load(*rows)
    path.write_text("; a title\n" + "\n".join(rows) + "\n")
    assert sokoban().load(path) == load(*rows)


def test_mirrored_and_turned_levels_are_one_instance_and_do_not_cross_splits() -> None:
    env = sokoban()
    for seed in range(30):
        state = env.reset(seed)
        rows = state["level"].split("/")
        turned = ["".join(column) for column in zip(*rows[::-1], strict=True)]
        mirrored = [row[::-1] for row in rows]
        assert env.instance(load(*turned)) == env.instance(load(*mirrored)) == env.instance(state)
        assert env.split_of(load(*turned)) == env.split_of(state)
    splits = [env.split_of(env.reset(seed)) for seed in range(1500)]
    assert 0.75 < splits.count("train") / 1500 < 0.85
    assert all(0.07 < splits.count(name) / 1500 < 0.13 for name in ("val", "test"))


def test_reset_neither_reads_nor_moves_global_random_state() -> None:
    env = sokoban()
    random.seed(1)
    before = random.getstate()
    first = [env.reset(seed) for seed in range(50)]
    assert random.getstate() == before
    random.seed(2)
    assert [env.reset(seed) for seed in range(50)] == first
    assert len({env.instance(state) for state in first}) == 50


def test_the_weak_player_wins_sometimes() -> None:
    env, rng, wins, games = sokoban(), random.Random(0), 0, 300
    for seed in range(games):
        state = env.reset(seed)
        for _ in range(env.max_turns):
            step = env.step(state, env.weak(state, rng))
            state = step.state
            if step.done:
                break
        wins += step.success
    assert 0.05 < wins / games < 0.3


def test_the_solver_gives_up_with_an_error_rather_than_wrongly() -> None:
    here = level(make("sokoban:8x8-5").reset(1)["level"])
    with pytest.raises(EnvError, match="search nodes"):
        shortest(here.room(), here.player, here.boxes, limit=3)


def test_render_is_the_room_in_rich_markup() -> None:
    env = sokoban()
    plain = Text.from_markup(env.render(load("######", "#@$ .#", "######"))).plain
    assert plain.split("\n") == ["############", "##@><> .()##", "############"]


def test_a_state_is_small() -> None:
    assert len(json.dumps(sokoban().reset(0))) < 150
