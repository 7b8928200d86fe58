"""Early experience: branches are what the environment answers, explanations are kept if true, methods cost alike."""

from __future__ import annotations

import json
import random
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from lamer_envs import make
from lamer_graph.errors import ConfigError, PolicyError
from lamer_graph.policies.shipped import is_policy
from lamer_graph.trial.answers import ACTION_TAG, extract
from lamer_trainers.errors import TrainingDataError
from lamer_trainers.warmstart.branches import Branched, Even, Outcome, Sampled, branch, moments, world_rows
from lamer_trainers.warmstart.early import Early, check_export, export, from_json, prepared, to_json
from lamer_trainers.warmstart.explaining import Asked, Scripted, asking, holds
from lamer_trainers.warmstart.pretrained import teacher_for
from lamer_trainers.warmstart.teachers import Teacher, rows
from lamer_trainers.warmstart.warmup import run_warmup, teacher_of
from scripted import ScriptedPolicy

SPECS = ("minesweeper:4x4-3", "sokoban:6x6-2", "webshop:1000", "alfworld")


@pytest.fixture(scope="module", params=SPECS)
def teacher(request: pytest.FixtureRequest) -> Teacher:
    return teacher_of(make(request.param))[0]


@pytest.fixture(scope="module")
def branched(teacher: Teacher) -> list[Branched]:
    noted, even = list(islice(moments(teacher, 0), 40)), Even(teacher, 0)
    return [branch(teacher, one, others) for one, others in zip(noted, even.propose(noted, 3), strict=True)]


# -- branches ---------------------------------------------------------------------------------------------------------


def test_a_branch_is_what_the_environment_answers_from_the_teachers_state(teacher: Teacher) -> None:
    noted, even = list(islice(moments(teacher, 3), 30)), Even(teacher, 3)
    for moment, others in zip(noted, even.propose(noted, 3), strict=True):
        before = json.dumps(moment.state, sort_keys=True)
        made = branch(teacher, moment, others)
        assert json.dumps(moment.state, sort_keys=True) == before
        assert moment.choice.action not in others
        assert len(set(others)) == len(others) <= 3
        for outcome, action in zip(made.outcomes, (moment.choice.action, *others), strict=True):
            step = teacher.env.step(moment.state, action)
            assert (outcome.reward, outcome.done, outcome.success) == (step.reward, step.done, step.success)
            assert outcome.seen == teacher.seen(step.state)


def test_world_rows_ask_for_the_next_observation_behind_the_action_as_it_is_answered(
    teacher: Teacher, branched: list[Branched]
) -> None:
    for case in branched:
        made = world_rows(teacher, case)
        assert [row.answer for row in made] == [outcome.seen for outcome in case.outcomes]
        for row, outcome in zip(made, case.outcomes, strict=True):
            assert row.messages[: len(case.messages)] == case.messages
            action, ask = row.messages[len(case.messages) :]
            assert (action["role"], ask["role"]) == ("assistant", "user")
            assert extract(action["content"], ACTION_TAG).text == outcome.action


def test_a_policys_valid_proposals_come_first_and_the_rest_is_drawn() -> None:
    teacher = teacher_of(make("minesweeper:4x4-3"))[0]
    noted = list(islice(moments(teacher, 0), 20))

    def answers(messages: Any, sampling: Any) -> str:
        rng = random.Random(sampling.seed)
        return rng.choice(["I would open <action>(1,1)</action>", "<action>(9, 9)</action>", "no idea"])

    proposer = Sampled(teacher, ScriptedPolicy(answers), 0, Even(teacher, 0))
    proposed = proposer.propose(noted, 3)
    for moment, others in zip(noted, proposed, strict=True):
        assert all(teacher.env.step(moment.state, action).valid for action in others)
        assert moment.choice.action not in others
        closed = teacher.env.admissible(moment.state)
        assert len(others) == min(3, len(closed) - 1)
    assert 0 < proposer.proposed <= 20
    assert proposer.proposed + proposer.drawn == sum(map(len, proposed))
    assert Sampled(teacher, ScriptedPolicy(answers), 0, Even(teacher, 0)).propose(noted, 3) == proposed


def test_an_environment_without_other_actions_is_refused_by_what_it_lacks() -> None:
    from ladder import Solved

    with pytest.raises(ConfigError, match="drawn from `admissible` or `weak`"):
        Even(teacher_for(Solved(), "standard", frozenset()), 0)


# -- explanations -----------------------------------------------------------------------------------------------------


def case_of(*others: Outcome, expert: Outcome | None = None) -> Branched:
    expert = expert or Outcome("(1, 2)", "(1, 2)=1", "Open (1, 2)=1", 0.5, False, False, True)
    messages: Any = [{"role": "user", "content": "Open (2, 2)=2 Closed (1, 1) (1, 2) (3, 3) (4, 4)"}]
    return Branched(messages, expert, others)


MINE = Outcome("(3, 3)", "mine at (3, 3)", "mine at (3, 3)", -0.1, True, False, True)
OPEN = Outcome("(1, 1)", "(1, 1)=0", "Open (1, 1)=0", 0.5, False, False, True)
WIN = Outcome("(4, 4)", "(4, 4)=1", "won", 10.0, True, True, True)
CASE = case_of(MINE, OPEN)


@pytest.mark.parametrize(
    "text",
    [
        "Opening (3, 3) hits a mine, but (1, 2) is safe.",
        "(3,3) is a mine and loses the game; (1, 2) shows a number.",
        "(1, 2) is better because it does not lose, while (3, 3) does hit a mine.",
        "mine at (3, 3); (1, 2)=1",
        "Choose (1, 2): it isn't a mine.",
    ],
)
def test_an_explanation_that_is_true_of_the_outcomes_is_kept(text: str) -> None:
    assert holds(text, CASE)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "nothing is said"),
        ("Opening (3, 3) hits a mine.", "the teacher's action is not named"),
        ("(1, 2) is better.", "no outcome is stated"),
        ("(1, 2) hits a mine, (3, 3) is fine.", "false of the teacher's action"),
        ("(1, 1) is a mine, so choose (1, 2).", "false of another"),
        ("(3, 3) is safe, and (1, 2) too.", "calls a mine safe"),
        ("(3, 3) is not a mine; (1, 2) is safe.", "denies what is so"),
        ("(1, 2) wins the game.", "it does not"),
        ("(1, 2) is safe, as (5, 5) is a mine.", "a cell that nobody knows of"),
        ("(1, 2)=3 and (3, 3) is a mine.", "another number than was seen"),
        ("(1, 2) is safe with 7 neighbours.", "a number from nowhere"),
        ("(1, 2) or (3, 3) is a mine.", "a verdict on nobody knows which"),
        ("It is a mine. Choose (1, 2).", "a verdict on nobody knows which"),
        ("<action>(1, 2)</action> is safe.", "tags"),
        ("(1, 2) is safe. " + "x" * 400, "too long"),
    ],
)
def test_an_explanation_that_is_false_vague_or_unreadable_is_not_kept(text: str, why: str) -> None:
    assert not holds(text, CASE), why


def test_the_longest_action_is_meant_where_one_begins_like_another() -> None:
    short = Outcome("up", "up: box to (2, 3), stuck", "stuck", -0.2, True, False, True)
    long = Outcome("up, up, left", "up, up, left: won", "won", 10.0, True, True, True)
    case = case_of(short, expert=long)
    assert holds("up gets a box stuck; up, up, left wins.", case)
    assert not holds("up, up, left gets a box stuck; up wins.", case)


@pytest.mark.parametrize("style", ["compact", "standard"])
@pytest.mark.parametrize("spec", SPECS)
def test_scripted_explanations_hold_where_the_outcomes_speak_for_the_teacher(spec: str, style: Any) -> None:
    teacher = teacher_for(make(spec), style, frozenset())
    noted, even = list(islice(moments(teacher, 1), 80)), Even(teacher, 1)
    cases = [branch(teacher, one, others) for one, others in zip(noted, even.propose(noted, 3), strict=True)]
    telling = [case for case in cases if case.tells]
    for case in telling:
        rewards = [other.reward for other in case.others]
        assert case.expert.reward >= max(rewards)
        assert case.expert.reward > min(rewards)
    kept = [text for case, text in zip(telling, Scripted(teacher).explain(telling), strict=True) if holds(text, case)]
    assert kept or spec == "alfworld"  # where a reward comes once in an episode, few states tell
    if spec in SPECS[:2]:
        assert len(kept) == len(telling)


VERDICTS = {
    "is a mine": "lost",
    "is not a mine": "not lost",
    "wins": "won",
    "does not win": "not won",
    "is safe": "safe",
}


@settings(max_examples=200, deadline=None)
@drawn(
    st.lists(st.tuples(st.sampled_from([CASE.expert, MINE, OPEN]), st.sampled_from(sorted(VERDICTS))), max_size=6),
    st.sampled_from([". ", "; ", " but ", ", while "]),
)
def test_of_plain_sentences_those_are_kept_that_are_all_true_and_speak_of_the_teachers_action(
    said: list[tuple[Outcome, str]], between: str
) -> None:
    def true(outcome: Outcome, verdict: str) -> bool:
        lost, won = outcome is MINE, False
        facts = {"lost": lost, "not lost": not lost, "won": won, "not won": not won, "safe": not lost}
        return facts[VERDICTS[verdict]]

    text = between.join(f"{outcome.action} {verdict}" for outcome, verdict in said)
    named = any(outcome is CASE.expert for outcome, _ in said)
    assert holds(text, CASE) == (named and all(true(*claim) for claim in said))


def test_a_model_is_shown_every_outcome_as_a_quotation_and_its_failures_cost_their_explanations_alone() -> None:
    asked = asking(CASE)[-1]["content"]
    assert "\n> (3, 3) led to: mine at (3, 3) (lost)\n" in asked
    assert "The better choice is (1, 2)." in asked

    def answers(messages: Any, sampling: Any) -> str:
        if "(4, 4)" in messages[-1]["content"].split("## ")[1]:
            raise PolicyError("lost")
        return "<think>hm</think>(3, 3) is a mine,\n(1, 2) is safe."

    explainer = Asked(ScriptedPolicy(answers), "teacher-model", 0)
    said = explainer.explain([CASE, case_of(MINE, WIN)])
    assert said == ["(3, 3) is a mine, (1, 2) is safe.", ""]
    with pytest.raises(PolicyError, match="lost"):
        explainer.explain([case_of(MINE, WIN)])


# -- methods ----------------------------------------------------------------------------------------------------------


def made(teacher: Teacher, method: Any, count: int = 150, seed: int = 2) -> Any:
    proposer = None if method == "bc" else Even(teacher, seed)
    return prepared(Early(method), teacher, count, seed, proposer=proposer, explainer=Scripted(teacher))


def test_imitation_has_the_rows_that_it_always_had(teacher: Teacher) -> None:
    assert made(teacher, "bc").stages == [rows(teacher, 150, 2)]


def test_all_methods_have_as_many_rows_and_follow_from_the_seed(teacher: Teacher) -> None:
    for method in ("iwm", "sr"):
        once, again = made(teacher, method), made(teacher, method)
        assert once.stages == again.stages
        assert sum(map(len, once.stages)) == 150
        assert made(teacher, method, seed=5).stages != once.stages


def test_world_modelling_comes_first_and_explanations_are_mixed_in(teacher: Teacher) -> None:
    world, taught = made(teacher, "iwm").stages
    assert (len(world), len(taught)) == (50, 100)
    assert taught == rows(teacher, 100, 2)
    explained = made(teacher, "sr")
    (both,) = explained.stages
    kinds = explained.kinds
    assert Counter(map(repr, both)) == Counter(map(repr, [*kinds["expert"], *kinds["reflection"]]))
    assert 0 < len(kinds["reflection"]) <= 50
    for row in kinds["reflection"]:
        assert not row.forbidden
        assert teacher.env.parse(extract(row.answer, ACTION_TAG).text or "") is not None
        assert not row.answer.startswith("<")


def test_rows_survive_being_kept() -> None:
    stages = made(teacher_of(make("minesweeper:4x4-3"))[0], "iwm").stages
    assert from_json(json.loads(json.dumps(to_json(stages)))) == stages


def test_no_true_explanation_at_all_is_an_error_that_says_what_would_help() -> None:
    teacher = teacher_of(make("minesweeper:4x4-3"))[0]
    mute = Asked(ScriptedPolicy(lambda messages, sampling: "I like it."), "policy", 0)
    with pytest.raises(TrainingDataError, match=r"none of [0-9]+ explanations by policy.*--explainer scripted"):
        prepared(Early("sr"), teacher, 6, 0, proposer=Even(teacher, 0), explainer=mute)


def test_data_sets_are_what_a_trainer_reads(tmp_path: Path) -> None:
    teacher = teacher_of(make("minesweeper:4x4-3"))[0]
    everything = made(teacher, "iwm")
    assert export(everything, tmp_path / "data") == {"world": 50, "expert": 100}
    for kind, own in everything.kinds.items():
        table = datasets.Dataset.from_parquet(str(tmp_path / "data" / f"{kind}.parquet"), cache_dir=str(tmp_path))
        assert [row["completion"][0]["content"] for row in table] == [row.answer for row in own]
        assert table[0]["prompt"] == own[0].messages
    with pytest.raises(ConfigError, match="choose another for --export"):
        check_export(tmp_path / "data")


@pytest.mark.parametrize("wrong", [{"method": "dagger"}, {"branches": 0}])
def test_a_method_that_is_none_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError):
        Early(**wrong)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--branches", "2"), "--branches is for --method iwm or sr"),
        (("--explainer", "scripted"), "--explainer is for --method sr"),
        (("--method", "sr", "--explainer", "http://127.0.0.1:1"), "has no words for what a model explains"),
        (("--method", "sr", "--explainer-model", "big"), "--explainer-model is of the models at an address"),
        (("--rows", "10", "--minutes", "1"), "give one of the two"),
        (("--method", "iwm", "--export", "full"), "choose another for --export"),
    ],
)
def test_options_that_do_nothing_are_refused_before_there_is_a_folder(cli: Any, options: Any, says: str) -> None:
    Path("full").mkdir()
    Path("full/mine").write_text("mine")
    outcome = cli("warmup", "--out", "made", *options)
    assert outcome.code == 2
    assert says in outcome.error_line
    assert not Path("made").exists()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["iwm", "sr"])
def test_a_tiny_policy_is_made_by_either_method_and_says_so(method: Any, tmp_path: Path) -> None:
    report = run_warmup(
        "minesweeper:4x4-3", tmp_path / "made", rows=600, early=Early(method), tasks=2, progress=str,
        dataset=tmp_path / "data",
    )  # fmt: skip
    assert is_policy(tmp_path / "made")
    assert report.rows == 600
    told = json.loads((tmp_path / "made" / "warmup.json").read_text())["early"]
    assert told["method"] == method
    assert sum(told[kind] for kind in ("world", "reflection", "expert") if kind in told) == 600
    said = (tmp_path / "made" / "README.md").read_text()
    assert f"--method {method}" in said
    assert "arXiv 2510.08558" in said
    assert len(list((tmp_path / "data").glob("*.parquet"))) == 2


def test_a_case_is_told_apart_by_what_its_outcomes_say() -> None:
    assert CASE.tells
    assert not case_of(OPEN).tells
    assert not case_of(MINE, WIN).tells
    assert not replace_expert(CASE, done=True, success=False).tells
    assert not CASE._replace(skilled=False).tells
    assert not case_of().tells


def replace_expert(case: Branched, **fields: Any) -> Branched:
    return case._replace(expert=case.expert._replace(**fields))
