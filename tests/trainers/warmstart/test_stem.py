"""Batches that compute a shared beginning once: loss and gradient of whole rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lamer_envs import make
from lamer_graph.policies.loading import load_model, renderer_of
from lamer_trainers.warmstart.pretrained import teacher_for
from lamer_trainers.warmstart.stem import IGNORE, Example, batched, can_share, collate, computed, encode, parts
from lamer_trainers.warmstart.teachers import rows
from lamer_trainers.warmstart.tuning import TuneConfig, _learn, with_adapter
from tiny_llama import build_tiny_llama

WITHIN = 1e-5
"""Relative error of a gradient in float32."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_llama(tmp_path_factory.mktemp("stem") / "llama")


@pytest.fixture(scope="module")
def examples(folder: Path) -> list[Example]:
    return encode(
        renderer_of(folder), rows(teacher_for(make("minesweeper:4x4-3"), "standard", frozenset()), 12, seed=1)
    )


def _written_out(model: Any, examples: list[Example]) -> torch.Tensor:
    """Mean -log p of the answers' tokens, each row alone and whole."""
    lost = []
    for prompt, answer in examples:
        ids = torch.tensor([[*prompt, *answer]])
        logprobs = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)
        lost.append(-logprobs.gather(-1, torch.tensor(answer)[:, None])[:, 0])
    return torch.cat(lost).mean()


def _gradient(model: Any) -> torch.Tensor:
    found = torch.cat([one.grad.flatten() for one in model.parameters() if one.grad is not None])
    model.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("rank", [None, 4])
@pytest.mark.parametrize("most", [100_000, 150])
def test_a_step_has_the_gradient_of_whole_rows(
    folder: Path, examples: list[Example], rank: int | None, most: int
) -> None:
    model = with_adapter(load_model(folder, "cpu", None), TuneConfig(1e-3, rank=rank, micro_tokens=most), seed=0)
    if rank is not None:  # a fresh adapter's second factor is zero, and so the first's gradient
        for name, one in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(one, std=0.1, generator=torch.Generator().manual_seed(0))
    assert can_share(model.config)
    loss = _written_out(model, examples)
    loss.backward()
    wanted = _gradient(model)
    config = TuneConfig(1e-3, rank=rank, micro_tokens=most)
    made = _learn(model, examples, config, 0, torch.Tensor.backward)
    found = _gradient(model)
    assert float(made) == pytest.approx(float(loss), rel=WITHIN)
    assert float((found - wanted).norm() / wanted.norm()) < WITHIN


def test_rows_under_a_sliding_window_are_computed_whole_and_alike(tmp_path: Path, examples: list[Example]) -> None:
    model = load_model(build_tiny_llama(tmp_path / "mistral", window=64), "cpu", None)
    assert not can_share(model.config)
    loss = _written_out(model, examples)
    loss.backward()
    wanted = _gradient(model)
    made = _learn(model, examples, TuneConfig(1e-3), 0, torch.Tensor.backward)
    assert float(made) == pytest.approx(float(loss), rel=WITHIN)
    assert float((_gradient(model) - wanted).norm() / wanted.norm()) < WITHIN


def test_what_all_prompts_begin_with_is_in_a_batch_once(examples: list[Example]) -> None:
    batch = collate(examples, pad=0)
    assert len(batch.stem) > 0.5 * sum(len(one.prompt) for one in examples) / len(examples)
    for example, ids, mask, labels in zip(examples, batch.ids, batch.mask, batch.labels, strict=True):
        assert [*batch.stem.tolist(), *ids[mask == 1].tolist()] == [*example.prompt, *example.answer]
        assert labels[labels != IGNORE].tolist() == example.answer


def test_equal_prompts_share_all_but_the_token_that_asks() -> None:
    batch = collate([Example([1, 2, 3], [4, 5]), Example([1, 2, 3], [6])], pad=0)
    assert batch.stem.tolist() == [1, 2]
    assert batch.ids.tolist() == [[3, 4, 5], [0, 3, 6]]


def test_a_single_row_is_a_batch() -> None:
    batch = collate([Example([1, 2, 3], [4, 5])], pad=0)
    assert batch.ids.tolist() == [[3, 4, 5]]


@given(lengths=st.lists(st.integers(1, 50), min_size=1, max_size=40), size=st.integers(1, 9), most=st.integers(1, 200))
def test_every_row_is_in_one_batch_and_one_part_of_bounded_size(lengths: list[int], size: int, most: int) -> None:
    examples = [Example([0, i, *[7] * n], [1, 2]) for i, n in enumerate(lengths)]
    batches = batched(examples, size, seed=3)
    assert sorted(i for batch in batches for i in batch) == list(range(len(examples)))
    assert all(len(batch) <= size for batch in batches)
    cut = parts(examples, most)
    assert sorted(map(examples.index, (one for part in cut for one in part))) == list(range(len(examples)))
    shared = 1 if len(examples) > 1 else len(examples[0].prompt)
    for part in cut:
        assert len(part) == 1 or len(part) * (max(one.length for one in part) - shared) <= most


def test_what_a_step_computes_is_counted_as_it_is_collated(examples: list[Example]) -> None:
    for share in (True, False):
        made = [collate(part, 0, share=share) for part in parts(examples, 900, share=share)]
        assert computed(examples, 900, share=share) == sum(len(one.stem) + one.ids.numel() for one in made)


def test_the_end_of_an_answer_is_learnt(folder: Path, examples: list[Example]) -> None:
    end = renderer_of(folder).tokenizer.eos_token_id
    assert all(example.answer[-1] == end for example in examples)
