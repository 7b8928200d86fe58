"""Weights in 16 bits: an option of a policy in this process, which answers with their numbers; refused elsewhere."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from command_line import Cli
from lamer_graph.policies import loading
from lamer_graph.policies.local import LocalPolicy
from lamer_graph.types import Message, Sampling

ACT: list[Message] = [{"role": "system", "content": "Rules. " * 40}, {"role": "user", "content": "Open (0, 1)=2 Act"}]


@pytest.mark.parametrize("shares", [False, True])
async def test_bfloat16_weights_answer_with_their_own_logprobs(tiny_model_dir: Path, shares: bool) -> None:
    policy = LocalPolicy(tiny_model_dir, dtype="bfloat16", share_prefixes=shares)
    exact = LocalPolicy(tiny_model_dir)
    assert next(policy.model.parameters()).dtype == torch.bfloat16
    done = await asyncio.gather(*(policy.generate(ACT, Sampling(max_tokens=8, seed=seed)) for seed in range(8)))
    for one in done:
        # Two roundings of the same sums are some hundredths of a nat apart.
        assert np.abs(np.array(one.logprobs) - policy.score(ACT, one.token_ids)).mean() < 0.05
        assert np.abs(np.array(one.logprobs) - exact.score(ACT, one.token_ids)).mean() < 0.2
    policy.close()
    exact.close()


@pytest.mark.parametrize("able", [False, True])
def test_a_cpu_that_would_be_slower_for_it_says_so(
    tiny_model_dir: Path, able: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(loading, "multiplies_bfloat16", lambda: able)
    with caplog.at_level(logging.WARNING, loading.__name__):
        LocalPolicy(tiny_model_dir, dtype="bfloat16", device="cpu").close()
        LocalPolicy(tiny_model_dir, device="cpu").close()
    said = [record.getMessage() for record in caplog.records if "16 bits" in record.getMessage()]
    assert len(said) == (0 if able else 1)
    assert isinstance(loading.multiplies_bfloat16(), bool)


def test_the_command_line_takes_it_for_a_policy_in_this_process_only(cli: Cli) -> None:
    refused = cli("eval", "--tasks", "1", "--dtype", "bfloat16", "--base-url", "http://127.0.0.1:1")
    assert refused.code == 2
    assert "--dtype is for a policy in this process" in refused.error_line
    done = cli("eval", "--tasks", "1", "--episodes", "1", "--dtype", "bfloat16", "--json", "--out", "run")
    assert done.code == 0, done.err
