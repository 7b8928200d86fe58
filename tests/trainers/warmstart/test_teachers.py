"""The scripted teachers: what their rows ask and answer, whose memory they heed, how good their reflections are."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import islice

import pytest

from lamer_envs import make
from lamer_graph.policies.base import run_sync
from lamer_graph.trial.answers import ACTION_TAG, REMARK_TAG, extract
from lamer_graph.trial.driver import play_trial
from lamer_graph.trial.harness import make_harness
from lamer_graph.trial.prompts import Remembered
from lamer_memory import Contents
from lamer_trainers.warmstart.teach_minesweeper import MinesweeperTeacher, named_mines
from lamer_trainers.warmstart.teach_sokoban import STUCK_AT, SokobanTeacher, warned_cells
from lamer_trainers.warmstart.teachers import Attempt, Row, Teacher, rows
from lamer_trainers.warmstart.warmup import teacher_of
from scripted import ScriptedPolicy

SPECS = ("minesweeper:4x4-3", "sokoban:6x6-2")
MEAN_PROMPT_TOKENS, LONGEST_PROMPT_TOKENS = 45, 200


@pytest.fixture(scope="module", params=SPECS)
def teacher(request: pytest.FixtureRequest) -> Teacher:
    return teacher_of(make(request.param))[0]


def test_rows_follow_from_the_seed(teacher: Teacher, taught: list[Row]) -> None:
    assert rows(teacher, 600, seed=3) == taught
    assert rows(teacher, 600, seed=4) != taught


def test_every_answer_is_well_formed_and_every_action_valid_form(teacher: Teacher, taught: list[Row]) -> None:
    for row in taught:
        if row.messages[-1]["content"].endswith("Act"):
            action = extract(row.answer, ACTION_TAG).text
            assert action is not None
            assert teacher.env.parse(action) == action
            assert action not in row.forbidden
        else:
            assert extract(row.answer, REMARK_TAG).text
            assert not row.forbidden


@pytest.mark.parametrize("contents", ["none", "trajectory", "reflection", "both"])
def test_scripted_trials_ask_what_the_graph_asks(
    teacher: Teacher, contents: Contents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prompts that are taught are those that the driver of real trials builds, character for character."""
    monkeypatch.setattr(teacher, "slip", lambda attempt, rng: None)
    for seed in islice(teacher.env.seeds("train"), 8):
        lines = list(teacher.trial(teacher.env.reset(seed), contents, random.Random(seed)))
        answers = iter([row.answer for row in lines])
        policy = ScriptedPolicy(lambda messages, sampling, answers=answers: next(answers))
        h = make_harness(policy, teacher.env, contents, prompt_style="compact")
        played = run_sync(play_trial(h, {"seed": seed}))
        assert played.error is None
        assert policy.seen == [row.messages for row in lines]


def test_the_teacher_never_goes_against_its_memory() -> None:
    rng = random.Random(0)
    sweeper = MinesweeperTeacher(make("minesweeper:4x4-3"))
    porter = SokobanTeacher(make("sokoban:6x6-2"))
    named = warned = 0
    for seed in range(60):
        start = sweeper.env.reset(seed)
        memory, _ = sweeper.drill(start, rng)
        choice = sweeper.choose(Attempt(start, memory, rng.random() < 0.5), rng)
        assert choice.action not in named_mines(memory)
        assert named_mines(memory) <= set(choice.forbidden)
        named += len(named_mines(memory))
        start = porter.env.reset(seed)
        memory, _ = porter.drill(start, rng)
        choice = porter.choose(Attempt(start, memory, rng.random() < 0.5), rng)
        assert not warned_cells(memory) & porter.pushed_to(start, choice.action.split(", "))
        warned += len(warned_cells(memory))
    assert min(named, warned) > 0


def test_the_teacher_knows_of_pits_what_its_memory_names_and_plans_around_that() -> None:
    porter = SokobanTeacher(make("sokoban:6x6-1-pits=1"))
    rng = random.Random(0)
    around = 0
    for seed in range(40):
        start = porter.env.reset(seed)
        bare = {key: value for key, value in start.items() if key != "pits"}
        told = [Remembered("reflection", f"no box to {porter._name(start['pits'][0])}", 1)]
        blind = porter.choose(Attempt(start, (), True), rng).action
        assert blind == porter.choose(Attempt(bare, (), True), rng).action
        assert [blind] == (porter.env.solve(bare) or [])[:1]
        plan = porter.env.solve(start)
        knowing = porter.choose(Attempt(start, told, True), rng).action
        assert plan
        assert knowing == plan[0]
        around += knowing != blind
    assert around > 10


def test_notes_of_a_field_are_believed_more_often_than_not_and_bind_nobody() -> None:
    teacher = MinesweeperTeacher(make("minesweeper:4x4-3-family=0-9"))
    rng = random.Random(0)
    shown = right = named = hit = cells = 0
    for seed in islice(teacher.env.seeds("train"), 400):
        start = teacher.env.reset(seed)
        others = teacher.of_others(start, rng)
        shown += bool(others)
        assert not any(one.own for one in others)
        mines = teacher._mines(start)
        told = named_mines([replace(one, own=True) for one in others])
        named, hit = named + len(told), hit + len(told & mines)
        right, cells = right + len(mines), cells + 16
        choice = teacher.choose(Attempt(start, others, True), rng)
        assert not told & set(choice.forbidden) - (set(teacher._cells()) - set(teacher.env.admissible(start)))
    assert 180 < shown < 300
    assert hit / named > 1.4 * right / cells  # what they name is likelier than what nobody named
    plain = MinesweeperTeacher(make("minesweeper:4x4-3"))
    assert plain.of_others(plain.env.reset(0), rng) == []


def test_a_cell_that_others_name_is_opened_later_and_one_that_they_leave_out_sooner() -> None:
    teacher = MinesweeperTeacher(make("minesweeper:4x4-3-family=0-9"))
    state = teacher.env.load({"size": 4, "mines": [[1, 1], [1, 2], [4, 4]], "opened": [[2, 2]]})
    rng = random.Random(0)
    others = [Remembered("reflection", "mine at (4, 1)", 1, own=False)] * 3

    def drawn(memory: list[Remembered]) -> set[str]:
        return {teacher.choose(Attempt(state, memory, True), rng).action for _ in range(200)}

    assert "(4, 1)" in drawn([])
    assert "(4, 1)" not in drawn(others)


def test_ties_are_the_cells_that_the_teacher_might_as_well_have_drawn() -> None:
    large, small = (MinesweeperTeacher(make(f"minesweeper:{board}")) for board in ("5x5-4", "4x4-3"))
    rng = random.Random(0)
    for seed in range(60):
        start = large.env.reset(seed)
        memory, _ = large.drill(start, rng)
        skilled = seed % 2 == 0
        choice = large.choose(Attempt(start, memory, skilled), rng)
        assert choice.action in choice.ties
        assert not set(choice.ties) & (named_mines(memory) | set(choice.forbidden))
        drawn = {large.choose(Attempt(start, memory, skilled), rng).action for _ in range(300)}
        assert drawn == set(choice.ties)
        assert small.choose(Attempt(small.env.reset(seed), (), skilled), rng).ties == ()


def test_reflections_are_of_mixed_quality(teacher: Teacher) -> None:
    rng = random.Random(5)
    judged = []
    for seed in islice(teacher.env.seeds("train"), 300):
        attempt = teacher.begin(teacher.env.reset(seed), (), rng)
        attempt.skilled = False
        while not teacher.play(attempt, teacher.choose(attempt, rng).action):
            pass
        if not attempt.won and teacher.instructive(attempt):
            judged.append(teacher.true_remark(attempt, teacher.remark(attempt, rng)))
    assert len(judged) > 30
    assert 0.25 < sum(judged) / len(judged) < 0.6


def test_a_stuck_box_is_read_from_the_outcome() -> None:
    assert STUCK_AT.findall("up, left: box to (3, 2), bumped 1, stuck") == ["(3, 2)"]
    assert STUCK_AT.findall("up: box to (3, 2) on goal, stuck") == ["(3, 2)"]
    assert STUCK_AT.findall("up: box to (3, 2); left: at (2, 2), stuck") == []
