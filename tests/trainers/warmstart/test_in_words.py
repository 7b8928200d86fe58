"""Teachers of standard prompts: what they show is what a trial shows, and what they say can be read back."""

from __future__ import annotations

import random
from collections.abc import Sequence
from hashlib import blake2b
from itertools import islice

import pytest

from ladder import Ladder, Played, Solved
from lamer_envs import Env, State, make
from lamer_envs.errors import EnvError
from lamer_graph.errors import ConfigError
from lamer_graph.policies.base import run_sync
from lamer_graph.trial.answers import ACTION_TAG, REMARK_TAG, extract
from lamer_graph.trial.driver import play_trial
from lamer_graph.trial.harness import make_harness
from lamer_graph.trial.prompts import Remembered
from lamer_memory import Contents
from lamer_trainers.warmstart.pretrained import teacher_for
from lamer_trainers.warmstart.teach_alfworld import AlfworldTeacher, Known
from lamer_trainers.warmstart.teach_any import AnyTeacher
from lamer_trainers.warmstart.teach_minesweeper import MinesweeperTeacher, named_mines, safe_cells
from lamer_trainers.warmstart.teach_sokoban import SokobanTeacher, warned_cells
from lamer_trainers.warmstart.teach_webshop import TAKE, WebshopTeacher, wrong_products
from lamer_trainers.warmstart.teachers import Teacher, rows
from scripted import ScriptedPolicy

ENVS: dict[str, Env] = {
    **{spec: make(spec) for spec in ("minesweeper:4x4-3", "sokoban:6x6-2", "alfworld", "webshop")},
    "solved": Solved(),
    "played": Played(),
}


@pytest.fixture(params=ENVS)
def teacher(request: pytest.FixtureRequest) -> Teacher:
    return teacher_for(ENVS[request.param], "standard", frozenset())


@pytest.mark.parametrize("contents", ["none", "trajectory", "reflection", "both"])
def test_scripted_trials_in_words_ask_what_the_graph_asks(
    teacher: Teacher, contents: Contents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher, "slip", lambda attempt, rng: None)
    if hasattr(teacher, "_sensible"):  # ALFWorld's leaves rows out; here every one counts
        monkeypatch.setattr("lamer_trainers.warmstart.teach_alfworld.WALKS_KEPT", 1.0)
    for seed in islice(teacher.env.seeds("train"), 3):
        lines = list(teacher.trial(teacher.env.reset(seed), contents, random.Random(seed)))
        answers = iter([row.answer for row in lines])
        policy = ScriptedPolicy(lambda messages, sampling, answers=answers: next(answers))
        h = make_harness(policy, teacher.env, contents, prompt_style="standard")
        played = run_sync(play_trial(h, {"seed": seed}))
        assert played.error is None
        assert policy.seen == [row.messages for row in lines]


def test_answers_in_words_are_well_formed(teacher: Teacher) -> None:
    found = rows(teacher, 60, seed=2)
    assert found == rows(teacher, 60, seed=2)
    told = 0
    for row in found:
        remark = extract(row.answer, REMARK_TAG)
        if row.answer.startswith(f"<{ACTION_TAG}>"):
            action = extract(row.answer, ACTION_TAG).text
            assert action is not None
            assert teacher.env.parse(action) is not None
        else:
            assert remark.text
            assert remark.text[0].isupper()
            assert remark.text.endswith(".")
            told += 1
    assert told


def test_true_reflections_are_recognised_in_sentences(teacher: Teacher) -> None:
    rng, judged, same = random.Random(4), 0, 0
    for seed in islice(teacher.env.seeds("train"), 60):
        attempt = teacher.begin(teacher.env.reset(seed), (), rng)
        while not teacher.play(attempt, teacher.slip(attempt, rng) or teacher.choose(attempt, rng).action):
            pass
        if attempt.won or not teacher.instructive(attempt):
            continue
        note = teacher.remark(attempt, rng)
        assert teacher.true_remark(attempt, teacher.told(note)) == teacher.true_remark(attempt, note)
        judged += 1
        same += teacher.true_remark(attempt, note)
    # One that always solves its tasks has nothing to reflect on but attempts that were cut short.
    assert judged >= same > 0 or isinstance(teacher.env, Solved)


def _records(texts: Sequence[str]) -> list[Remembered]:
    return [Remembered("reflection", text, 1) for text in texts]


def test_what_a_teacher_knows_from_sentences_is_what_it_knows_from_notes() -> None:
    def told(spec: str, note: str) -> list[Remembered]:
        return _records([teacher_for(ENVS[spec], "standard", frozenset()).told(note)])

    assert named_mines(told("minesweeper:4x4-3", "mine at (1, 2); mine at (3, 3)")) == {"(1, 2)", "(3, 3)"}
    assert warned_cells(told("sokoban:6x6-2", "no box to (2, 3); no box to (4, 4)")) == {"(2, 3)", "(4, 4)"}
    seen = Known("apple").read(one.text for one in told("alfworld", "see apple 1 in fridge 1"))
    assert seen.at == {"apple 1": "fridge 1"}
    vain = Known("apple").read(one.text for one in told("alfworld", "no apple in shelf 1 and shelf 2"))
    assert vain.without == ["shelf 1", "shelf 2"]
    assert wrong_products(one.text for one in told("webshop", "not B123456789")) == {"B123456789"}
    (praised,) = told("webshop", "take B123456789 with red, large")
    assert TAKE.findall(praised.text) == [("B123456789", "red, large.")]
    assert wrong_products([praised.text]) == set()


def test_a_mine_is_told_in_a_sentence_that_says_what_to_do() -> None:
    sweeper = teacher_for(ENVS["minesweeper:4x4-3"], "standard", frozenset())
    assert sweeper.told("mine at (2, 3)") == "There is a mine at (2, 3). Do not open it again."


def test_cells_that_a_reflection_calls_safe_are_opened_first_and_are_what_the_attempt_had_opened() -> None:
    sweeper = teacher_for(ENVS["minesweeper:4x4-3"], "standard", frozenset())
    assert sweeper.told("safe to open (1, 2), (3, 4)") == "It is safe to open (1, 2), (3, 4)."
    start, rng, told = sweeper.env.reset(next(iter(sweeper.env.seeds("train")))), random.Random(0), 0
    for _ in range(60):
        attempt = sweeper.begin(start, (), rng)
        while not sweeper.play(attempt, sweeper.choose(attempt, rng).action):
            pass
        text = sweeper.told(sweeper.remark(attempt, rng))
        safe = safe_cells(text)
        assert safe <= set(attempt.actions) - named_mines(_records([text]))
        if not safe:
            continue
        told += 1
        again = sweeper.begin(start, _records([text]), rng)
        choice = sweeper.choose(again, rng)
        closed = safe & set(sweeper.env.admissible(again.state))
        assert {choice.action, *choice.ties} == closed
    assert told >= 5


def test_a_reflection_that_calls_a_mine_safe_is_not_true() -> None:
    sweeper = teacher_for(ENVS["minesweeper:4x4-3"], "standard", frozenset())
    env = sweeper.env
    start = env.reset(0)
    mines = sorted(f"({row}, {column})" for row, column in env.mine_cells(start))
    attempt = sweeper.begin(start, (), random.Random(0))
    sweeper.play(attempt, mines[0])
    good = f"There is a mine at {mines[0]}. Do not open it again."
    assert sweeper.true_remark(attempt, good)
    assert not sweeper.true_remark(attempt, f"{good} It is safe to open {mines[1]}.")


def test_a_plug_in_is_taught_by_its_own_solution_or_weak_player() -> None:
    for env in (Solved(), Played()):
        taught = rows(AnyTeacher(env, style="standard"), 80, seed=0)
        actions = [row.answer for row in taught if row.answer.startswith("<action>")]
        if isinstance(env, Solved):
            assert set(actions) == {"<action>up</action>"}
        else:
            assert len(set(actions)) == 3


def test_a_plug_in_without_a_player_is_refused_by_what_it_lacks() -> None:
    with pytest.raises(ConfigError, match=r"'ladder'.*`solve.*`weak"):
        AnyTeacher(Ladder())


def test_a_plug_in_that_solves_nothing_is_refused() -> None:
    class Hopeless(Solved):
        name = "hopeless"

        def solve(self, state: State) -> list[str] | None:
            return None

    with pytest.raises((ConfigError, EnvError), match="solves none"):
        rows(AnyTeacher(Hopeless(), style="standard"), 5, seed=0)


@pytest.mark.parametrize(
    ("teacher_of_it", "spec", "wanted"),
    [
        (MinesweeperTeacher, "minesweeper:4x4-3", "5e8ea0b2940d922e"),
        (SokobanTeacher, "sokoban:6x6-2", "74c050520f8109f0"),
        (AlfworldTeacher, "alfworld", "52f00e250a166fdd"),
        (WebshopTeacher, "webshop", "662f5ab460dbe45c"),
    ],
)
def test_compact_rows_are_those_that_made_the_shipped_policies(
    teacher_of_it: type[Teacher], spec: str, wanted: str
) -> None:
    found = rows(teacher_of_it(ENVS[spec]), 200, seed=0)
    told = repr([(row.messages[-1], *row[1:]) for row in found])
    assert blake2b(told.encode(), digest_size=8).hexdigest() == wanted
