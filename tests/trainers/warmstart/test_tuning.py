"""The fit of a given model: a step has the loss and the gradient of whole rows, however they are computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lamer_envs import make
from lamer_graph.policies.loading import load_model, renderer_of
from lamer_trainers.learning.packing import readings
from lamer_trainers.learning.sharing import Sharing
from lamer_trainers.warmstart.examples import EncodedRow, Example, batched, drawn, encode
from lamer_trainers.warmstart.pretrained import teacher_for
from lamer_trainers.warmstart.teachers import rows
from lamer_trainers.warmstart.tuning import TuneConfig, flat, learn, rows_per_second, taught, with_adapter
from tiny_llama import build_tiny_llama

WITHIN = 1e-5
"""Relative error of a gradient in float32."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_llama(tmp_path_factory.mktemp("tuning") / "llama")


@pytest.fixture(scope="module")
def encoded(folder: Path) -> list[EncodedRow]:
    teacher = teacher_for(make("minesweeper:4x4-3"), "standard", frozenset())
    return encode(renderer_of(folder), rows(teacher, 12, seed=1), teacher)


@pytest.fixture(scope="module")
def examples(encoded: list[EncodedRow]) -> list[Example]:
    return flat(encoded)


def _written_out(model: Any, examples: list[Example]) -> torch.Tensor:
    """Mean -log p of the answers' tokens by their shares, each answer alone and whole."""
    lost, counted = torch.zeros(()), 0.0
    for one in examples:
        prompt, answer = one.prompt_token_ids, one.token_ids
        ids = torch.tensor([[*prompt, *answer]])
        logprobs = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)
        lost = lost - one.share * logprobs.gather(-1, torch.tensor(answer)[:, None]).sum()
        counted += one.share * len(answer)
    return lost / counted


def _gradient(model: Any) -> torch.Tensor:
    found = torch.cat([one.grad.flatten() for one in model.parameters() if one.grad is not None])
    model.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("rank", [None, 4])
@pytest.mark.parametrize("most", [100_000, 1500])
def test_a_step_has_the_gradient_of_whole_rows(
    folder: Path, examples: list[Example], rank: int | None, most: int
) -> None:
    config = TuneConfig(1e-3, rank=rank, micro_tokens=most)
    model = with_adapter(load_model(folder, "cpu", None), config, seed=0)
    if rank is not None:  # a fresh adapter's second factor is zero, and so the first's gradient
        for name, one in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(one, std=0.1, generator=torch.Generator().manual_seed(0))
    passes = list(readings(examples, budget=most, pad=0, shared=True))
    assert (len(passes) > 1) == (most == 1500)
    assert sum(one.ids.numel() for _, one, _, _ in passes) < 0.8 * sum(one.length for one in examples)
    loss = _written_out(model, examples)
    loss.backward()
    wanted = _gradient(model)
    assert Sharing(model, True).of(max(one.length for one in examples))
    made = learn(model, examples, config, 0, True, torch.Tensor.backward)
    assert float(made) == pytest.approx(loss.item(), rel=WITHIN)
    assert float((_gradient(model) - wanted).norm() / wanted.norm()) < WITHIN


def test_rows_under_a_sliding_window_are_computed_whole_and_alike(tmp_path: Path, encoded: list[EncodedRow]) -> None:
    examples = flat(map(drawn, encoded))
    model = load_model(build_tiny_llama(tmp_path / "mistral", window=64), "cpu", None)
    assert not Sharing(model, True).of(max(one.length for one in examples))
    assert taught(model, encoded) == ([drawn(answers) for answers in encoded], False)
    loss = _written_out(model, examples)
    loss.backward()
    wanted = _gradient(model)
    made = learn(model, examples, TuneConfig(1e-3), 0, False, torch.Tensor.backward)
    assert float(made) == pytest.approx(loss.item(), rel=WITHIN)
    assert float((_gradient(model) - wanted).norm() / wanted.norm()) < WITHIN


def test_the_rate_is_of_a_fit_and_nothing_is_learnt_by_measuring_it(folder: Path, encoded: list[EncodedRow]) -> None:
    model = load_model(folder, "cpu", None)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert 0.1 < rows_per_second(model, encoded, TuneConfig(1e-3), "float32", 0) < 1e6
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(one.grad is None for one in model.parameters())


@given(lengths=st.lists(st.integers(1, 50), min_size=1, max_size=40), size=st.integers(1, 9))
def test_every_row_is_in_one_batch_of_bounded_size(lengths: list[int], size: int) -> None:
    encoded = [(Example([0, i, *[7] * n], [1, 2]),) for i, n in enumerate(lengths)]
    batches = batched(encoded, size, seed=3)
    assert sorted(i for batch in batches for i in batch) == list(range(len(encoded)))
    assert all(len(batch) <= size for batch in batches)


def test_the_end_of_an_answer_is_learnt(folder: Path, examples: list[Example]) -> None:
    end = renderer_of(folder).tokenizer.eos_token_id
    assert all(example.token_ids[-1] == end for example in examples)


def test_answers_that_are_as_good_are_learnt_alike_and_a_row_counts_once(
    folder: Path, encoded: list[EncodedRow]
) -> None:
    assert max(map(len, encoded)) == 6
    for answers in encoded:
        assert sum(one.share for one in answers) == pytest.approx(1)
        assert len({one.share for one in answers}) == 1
        assert len({tuple(one.token_ids) for one in answers}) == len(answers)
        assert all(one.prompt_token_ids == answers[0].prompt_token_ids for one in answers)
    teacher = teacher_for(make("minesweeper:4x4-3"), "standard", frozenset())
    renderer = renderer_of(folder)
    for row, answers in zip(rows(teacher, 12, seed=1), encoded, strict=True):
        told = [renderer.tokenizer.decode(one.token_ids, skip_special_tokens=True) for one in answers]
        assert told[0] == row.answer
        assert set(told) <= {row.answer, *(teacher.answer(tie) for tie in row.ties)}
        assert not set(told) & {teacher.answer(one) for one in row.forbidden}
