"""A pretrained language model, as `make smollm2` makes it: the same model in this process and on vLLM."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lamer_graph.policies.local import LocalPolicy
from lamer_graph.policies.openai import OpenAIPolicy
from lamer_graph.serving.vllm import INSTALL_HINT, VllmServer, vllm_flavour
from lamer_graph.types import Message, Sampling

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ASK: list[Message] = [{"role": "user", "content": "What is the capital of France?"}]
GREEDY = Sampling(temperature=0.0, max_tokens=24, seed=0)


@pytest.fixture
def smollm2() -> Path:
    folder = Path(__file__).parents[3] / "models" / "smollm2-135m"
    if not folder.is_dir():
        pytest.skip(f"no model at {folder}: make smollm2")
    return folder


async def test_it_knows_the_capital_of_france_here_and_on_vllm_with_equal_logprobs(
    smollm2: Path, tmp_path: Path
) -> None:
    if vllm_flavour() is None:
        pytest.skip(INSTALL_HINT)
    local = LocalPolicy(smollm2)
    here = await local.generate(ASK, GREEDY)
    local.close()
    assert "Paris" in here.text
    with VllmServer(smollm2, max_adapters=0, max_model_len=2048, run_dir=tmp_path) as server:
        policy = await OpenAIPolicy(server.base_url, training=True).connect()
        there = await policy.generate(ASK, GREEDY)
        await policy.aclose()
    assert list(there.prompt_token_ids) == list(here.prompt_token_ids)
    assert (list(there.token_ids), there.text) == (list(here.token_ids), here.text)
    assert len(here.token_ids) > 5
    assert np.abs(np.subtract(here.logprobs, there.logprobs)).max() < 0.02
