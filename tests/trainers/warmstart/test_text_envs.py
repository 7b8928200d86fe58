"""The warm starts of the environments in words: tokenizers, teachers, a small fit, and what ships."""

from __future__ import annotations

import random
import re
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lamer_envs import make
from lamer_envs.alfworld.env import Alfworld
from lamer_envs.webshop.env import Webshop
from lamer_graph.trial.answers import ACTION_TAG, REMARK_TAG, extract
from lamer_graph.trial.prompts import Remembered
from lamer_trainers.warmstart.fitting import IGNORE, FitConfig, LeftCollator, answer_logprobs, encode, fit
from lamer_trainers.warmstart.gates import held_out_drills
from lamer_trainers.warmstart.teach_alfworld import AlfworldTeacher, Known
from lamer_trainers.warmstart.teach_webshop import WebshopTeacher, wrong_products
from lamer_trainers.warmstart.teachers import Attempt, Row, Teacher, rows
from lamer_trainers.warmstart.tiny import build_model, build_tokenizer
from lamer_trainers.warmstart.warmup import run_warmup, teacher_of

SPECS = ("alfworld", "webshop")
MEAN_PROMPT_TOKENS, LONGEST_PROMPT_TOKENS = 90, 300
MOST_PARAMETERS = 1_500_000
LOOSE_SHARE = 0.02
"""Share of prompt tokens that may be single bytes other than line breaks."""


@pytest.fixture(scope="module", params=SPECS)
def teacher(request: pytest.FixtureRequest) -> Teacher:
    return teacher_of(make(request.param))[0]


_TOKENIZERS: dict[str, Any] = {}


def _tokenizer(spec: str) -> Any:
    if spec not in _TOKENIZERS:
        _TOKENIZERS[spec] = build_tokenizer(teacher_of(make(spec))[0].pieces())
    return _TOKENIZERS[spec]


@settings(max_examples=100, deadline=None)
@given(
    spec=st.sampled_from(SPECS),
    parts=st.lists(
        st.one_of(
            st.sampled_from(
                ["; go to", " apple 1", ", apple 12", "click[", "BE1G1RH810", "\nItem ", " $21", ".99", " pen"]
            ),
            st.text(max_size=8),
        ),
        max_size=12,
    ),
)
def test_any_text_comes_back_from_its_tokens(spec: str, parts: list[str]) -> None:
    text, tokenizer = "".join(parts), _tokenizer(spec)
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_prompts_are_few_tokens_and_hardly_any_of_them_single_bytes(tokenizer: Any, taught: list[Row]) -> None:
    prompts = tokenizer.apply_chat_template([row.messages for row in taught], add_generation_prompt=True)["input_ids"]
    lengths = [len(ids) for ids in prompts]
    assert sum(lengths) / len(lengths) <= MEAN_PROMPT_TOKENS
    assert max(lengths) <= LONGEST_PROMPT_TOKENS
    newline = tokenizer("\n")["input_ids"][0]
    loose = sum(token < 256 and token != newline for ids in prompts for token in ids)
    assert loose <= LOOSE_SHARE * sum(lengths)
    assert all(len(tokenizer(row.answer)["input_ids"]) <= 24 for row in taught)


def test_the_model_stays_tiny(teacher: Teacher, tokenizer: Any) -> None:
    assert build_model(tokenizer, teacher.pieces()).num_parameters() <= MOST_PARAMETERS


def test_rows_follow_from_the_seed_and_hold_exactly_one_tag(teacher: Teacher, taught: list[Row]) -> None:
    assert rows(teacher, 600, seed=3) == taught
    for row in taught:
        asked = REMARK_TAG if row.messages[-1]["content"].endswith("Remark") else ACTION_TAG
        assert extract(row.answer, asked).failure is None


def test_every_action_a_teacher_takes_is_valid_and_none_is_forbidden(teacher: Teacher) -> None:
    rng = random.Random(5)
    for task in islice(teacher.env.seeds("train"), 40):
        start = teacher.env.reset(task)
        memory, _ = teacher.drill(start, rng)
        attempt = teacher.begin(start, tuple(memory), rng)
        over = False
        while not over:
            choice = teacher.choose(attempt, rng)
            assert not any(choice.action.startswith(wrong) for wrong in choice.forbidden)
            before = attempt.state
            assert teacher.env.step(before, choice.action).valid, choice.action
            over = teacher.play(attempt, choice.action)


def test_a_teacher_is_weak_but_wins_sometimes(teacher: Teacher) -> None:
    rng = random.Random(6)
    won = 0
    for task in islice(teacher.env.seeds("train"), 150):
        attempt = teacher.begin(teacher.env.reset(task), (), rng)
        while not teacher.play(attempt, teacher.choose(attempt, rng).action):
            pass
        won += attempt.won
    assert 0.1 <= won / 150 <= 0.6


def test_reflections_are_of_mixed_quality(teacher: Teacher) -> None:
    rng = random.Random(7)
    judged = []
    for task in islice(teacher.env.seeds("train"), 150):
        attempt = teacher.begin(teacher.env.reset(task), (), rng)
        while not teacher.play(attempt, teacher.choose(attempt, rng).action):
            pass
        if not attempt.won and teacher.instructive(attempt):
            judged.append(teacher.true_remark(attempt, teacher.remark(attempt, rng)))
    assert len(judged) > 30
    assert 0.3 <= sum(judged) / len(judged) <= 0.7


def test_drills_on_held_out_tasks_forbid_something(teacher: Teacher) -> None:
    drills = held_out_drills(teacher, 20, seed=1)
    assert len(drills) == 20
    assert all(row.forbidden for row in drills)


def test_an_alfworld_teacher_goes_where_its_memory_saw_the_thing() -> None:
    env = make("alfworld:pick")
    assert isinstance(env, Alfworld)
    teacher = AlfworldTeacher(env)
    followed = 0
    for task in islice(env.seeds("train"), 20):
        start = env.reset(task)
        thing = env.compact(start).split("; ")[-1].split(" ")[1]
        goal = next(action for action in env.admissible(start) if action.startswith("go to "))
        place = goal.removeprefix("go to ")
        memory = (Remembered("reflection", f"see {thing} 1 in {place}", 1),)
        choice = teacher.choose(Attempt(start, memory, True, start=start), random.Random(0))
        assert choice.action == goal
        memory = (Remembered("trajectory", f"{goal}: has spoon 9", 1),)
        choice = teacher.choose(Attempt(start, memory, True, start=start), random.Random(0))
        followed += choice.action != goal and goal in choice.forbidden
    assert followed == 20


def test_what_an_alfworld_text_tells_is_read_from_outcomes_and_notes() -> None:
    told = "go to fridge 1: closed; open fridge 1: has pan 1 and pot 2; go to desk 1: has nothing"
    told += "; no pot in shelf 1 and bed 2"
    known = Known("pot").read([told, "see pot 3 in sofa 1"])
    assert known.at == {"pot 2": "fridge 1", "pot 3": "sofa 1"}
    assert known.without == ["desk 1", "shelf 1", "bed 2"]


def test_an_alfworld_name_is_the_same_single_token_wherever_it_is_read_or_written() -> None:
    env = make("alfworld")
    teacher, tokenizer = AlfworldTeacher(env), _tokenizer("alfworld")
    taken = 0
    for row in rows(teacher, 400, seed=5):
        found = re.fullmatch(r"<action>take ([a-z]+ [0-9]) from ([a-z]+ [0-9]+)</action>", row.answer)
        if found is None:
            continue
        prompt = tokenizer(row.messages[-1]["content"], add_special_tokens=False)["input_ids"]
        answer = tokenizer(row.answer, add_special_tokens=False)["input_ids"]
        for name in found.groups():
            (token,) = tokenizer(f" {name}", add_special_tokens=False)["input_ids"]
            assert token in prompt
            assert token in answer
        taken += 1
    assert taken > 10


def test_the_prompts_own_tokens_are_learnt_where_reading_is_asked_for(
    teacher: Teacher, tokenizer: Any, taught: list[Row]
) -> None:
    def nats(reading: float) -> float:
        """Mean negative log-probability of a prompt token after a short fit, counted over whole unpadded prompts."""
        model = build_model(tokenizer, teacher.pieces(), seed=0, hidden=64, layers=2, feed_forward=128)
        config = FitConfig(batch=32, learning_rate=3e-3, rise_steps=5, reading=reading)
        fit(model, tokenizer, taught, config, seed=0, progress=str)
        lost: list[torch.Tensor] = []
        for row in taught[:16]:
            ids = torch.tensor([tokenizer.apply_chat_template(row.messages, tokenize=True, return_dict=False)])
            with torch.inference_mode():
                logprobs = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
            lost.append(-logprobs.gather(-1, ids[0, 1:, None])[:, 0])
        return float(torch.cat(lost).mean())

    assert nats(2.0) < nats(0.0) - 0.3


def test_a_webshop_teacher_never_reopens_a_product_that_memory_names_as_wrong() -> None:
    env = make("webshop")
    assert isinstance(env, Webshop)
    teacher, rng = WebshopTeacher(env), random.Random(2)
    for task in islice(env.seeds("train"), 20):
        state = env.reset(task)
        state = env.step(state, teacher.choose(Attempt(state, (), True), rng).action).state
        first = teacher.choose(Attempt(state, (), True), rng).action
        asin = first.removeprefix("click[").removesuffix("]")
        for kind, text in (("reflection", f"not {asin}"), ("trajectory", f"found 50; bought {asin}: score 0.50")):
            choice = teacher.choose(Attempt(state, (Remembered(kind, text, 1),), True), rng)
            assert choice.action != first
            assert f"click[{asin}]" in choice.forbidden
        praised = (Remembered("reflection", f"take {asin} with black", 1),)
        assert teacher.choose(Attempt(state, praised, True), rng).action == first


def test_a_praised_product_is_not_wrong_even_if_it_was_bought_in_vain() -> None:
    bought = "at B123456789; bought B123456789, size s: score 0.80"
    assert wrong_products([bought]) == {"B123456789"}
    assert wrong_products([bought, "take B123456789 with s, black"]) == set()
    assert wrong_products(["bought B123456789: score 1.00"]) == set()


def test_names_of_a_shop_are_the_same_single_tokens_in_prompts_and_answers() -> None:
    teacher, tokenizer = teacher_of(make("webshop"))[0], _tokenizer("webshop")
    checked = 0
    for row in rows(teacher, 300, seed=8):
        thing = row.answer.removeprefix("<action>click[").removesuffix("]</action>")
        prompt = row.messages[-1]["content"]
        if thing == row.answer or thing not in prompt:
            continue
        answer = tokenizer(row.answer, add_special_tokens=False)["input_ids"]
        assert len(answer) == 5, row.answer
        assert answer[2] in tokenizer(prompt, add_special_tokens=False)["input_ids"]
        checked += 1
    assert checked > 50


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_full_warm_start_of_webshop_passes_its_gates(tmp_path: Path) -> None:
    report = run_warmup("webshop", tmp_path / "policy", seed=0)
    assert report.passed, report.gates


@pytest.mark.parametrize("copying", [0.0, 0.5])
def test_a_small_fit_makes_the_taught_answers_likely(
    teacher: Teacher, tokenizer: Any, taught: list[Row], copying: float
) -> None:
    model = build_model(tokenizer, teacher.pieces(), seed=0, hidden=64, layers=2, feed_forward=128, copying=copying)
    before = _nats(model, tokenizer, taught[:64])
    fit(model, tokenizer, taught * 3, FitConfig(batch=32, learning_rate=3e-3, rise_steps=5), seed=0, progress=str)
    assert _nats(model, tokenizer, taught[:64]) < 0.6 * before


def _nats(model: Any, tokenizer: Any, asked: list[Row]) -> float:
    """Mean negative log-probability of an answer."""
    data = encode(tokenizer, asked)
    inputs = LeftCollator(tokenizer.pad_token_id, len(tokenizer))([data[i] for i in range(len(data))])
    with torch.inference_mode():
        logprobs = answer_logprobs(model, inputs)
    labels = inputs["labels"]
    taken = logprobs.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    return -float((taken * (labels != IGNORE)).sum()) / len(asked)


def test_a_copying_start_leaves_the_embeddings_as_they_are_and_repeats(teacher: Teacher, tokenizer: Any) -> None:
    plain, first, second = (
        build_model(tokenizer, teacher.pieces(), seed=4, copying=copying).state_dict() for copying in (0.0, 0.5, 0.5)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    changed = {name.rsplit(".", 2)[1] for name in plain if not torch.equal(plain[name], first[name])}
    assert {"q_proj", "v_proj", "o_proj"} <= changed
    layer = "model.layers.0.self_attn."
    passed_on = first[layer + "o_proj.weight"] @ first[layer + "v_proj.weight"]
    assert torch.allclose(passed_on, 0.5 * torch.eye(len(passed_on)), atol=1e-5)
