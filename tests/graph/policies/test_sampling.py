"""Sampling from logits: draws follow the distribution, depend on seed and position alone, and are scored exactly."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lamer_graph.policies.sampling import draw, token_logprobs, truncate, uniforms


def test_draws_follow_the_distribution() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0]).expand(20_000, 4)
    n = len(logits)
    tokens, logprobs = draw(
        logits, temperatures=[0.7] * n, top_ks=[0] * n, top_ps=[1.0] * n, seeds=range(n), positions=[0] * n
    )
    expected = (logits[0] / 0.7).softmax(-1)
    observed = torch.bincount(tokens, minlength=4) / n
    # Five standard errors of a binomial proportion.
    assert torch.all((observed - expected).abs() < 5 * (expected * (1 - expected) / n).sqrt())
    assert torch.allclose(logprobs, expected.log()[tokens], atol=1e-6)


def test_uniforms_depend_on_seed_and_position_only_and_fill_the_unit_interval() -> None:
    values = uniforms(range(50_000), [3] * 50_000)
    assert values.min() >= 0
    assert values.max() < 1
    assert abs(values.mean() - 0.5) < 0.01
    assert uniforms([7, 8, 9], [3, 4, 5])[1] == uniforms([8], [4])[0] != uniforms([8], [5])[0]
    assert len(set(uniforms([1] * 1000, range(1000)))) == 1000


@given(
    logits=st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=40),
    top_k=st.integers(0, 50),
    top_p=st.floats(0.05, 1.0),
)
@settings(deadline=None)
def test_truncation_keeps_the_likeliest_tokens_and_at_least_one(logits: list[float], top_k: int, top_p: float) -> None:
    row = torch.tensor([logits], dtype=torch.float32)
    cut = truncate(row, torch.tensor([top_k]), torch.tensor([top_p]))
    kept = torch.isfinite(cut[0])
    assert kept.any()
    assert torch.equal(cut[0][kept], row[0][kept])
    if not kept.all():
        assert row[0][kept].min() >= row[0][~kept].max()
    probabilities = row.softmax(-1)[0]
    if top_k == 0 and top_p < 1:
        # Whatever is left out, the kept ones reach top_p.
        assert probabilities[kept].sum() >= top_p - 1e-4
    if top_k:
        smallest_in = probabilities.sort(descending=True).values[min(top_k, len(logits)) - 1]
        assert probabilities[kept].min() >= smallest_in - 1e-7


def test_scores_are_the_log_softmax_at_the_temperature() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    scored = token_logprobs(logits, torch.tensor([2, 0]), 0.5)
    expected = [6 - math.log(math.exp(2) + math.exp(4) + math.exp(6)), -math.log(3)]
    assert scored.tolist() == pytest.approx(expected, abs=1e-6)
