"""Which models run in this process: their own logprobs whatever the batch, or refused from the configuration alone."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoTokenizer

from lamer_graph.errors import ConfigError
from lamer_graph.policies.local import LocalPolicy
from lamer_graph.policies.runnable import check_config, window_of
from lamer_graph.types import Sampling
from small_models import ALTERNATING, SLIDING, WINDOW, config_of, model_of


def own_logprobs(model: Any, prompt: list[int], tokens: list[int]) -> np.ndarray[Any, Any]:
    whole = torch.tensor([[*prompt, *tokens]])
    with torch.no_grad():
        logprobs = model(input_ids=whole[:, :-1], use_cache=False).logits[0, len(prompt) - 1 :].log_softmax(-1)
    return logprobs.gather(-1, torch.tensor(tokens)[:, None])[:, 0].numpy()


@pytest.mark.parametrize("family", SLIDING)
async def test_models_with_sliding_windows_answer_with_their_own_logprobs(family: str, tiny_model_dir: Path) -> None:
    model = model_of(config_of(family, **SLIDING[family]))
    policy = LocalPolicy(model, AutoTokenizer.from_pretrained(tiny_model_dir), version=family)
    # Shorter than the window, about as long, and longer, together.
    asked = [([{"role": "user", "content": "Act " * n}], Sampling(max_tokens=5, seed=n)) for n in (1, 4, 9, 40)]
    answers = await asyncio.gather(*(policy.generate(*one) for one in asked))  # type: ignore[arg-type]
    whole_window = model_of(config_of(family, **SLIDING[family] | {"sliding_window": 255}))
    for answer in answers:
        prompt, tokens = list(answer.prompt_token_ids), list(answer.token_ids)
        assert np.allclose(answer.logprobs, own_logprobs(model, prompt, tokens), atol=2e-4)
    assert not np.allclose(answer.logprobs, own_logprobs(whole_window, prompt, tokens), atol=2e-2)
    policy.close()


def test_a_window_that_no_text_exceeds_is_none() -> None:
    assert window_of(config_of("mistral", sliding_window=WINDOW)) == WINDOW
    assert window_of(config_of("mistral", sliding_window=256)) is None
    assert window_of(config_of("qwen3", sliding_window=WINDOW)) is None  # it is not used
    assert window_of(config_of("llama")) is None


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (lambda: config_of("qwen3_5_text"), "qwen3_5_text has linear_attention: serve it with vLLM"),
        (lambda: config_of("lfm2", layer_types=["conv", "full_attention"]), "lfm2 has conv"),
        (lambda: AutoConfig.for_model("mamba"), "mamba names no longest text"),
        (lambda: AutoConfig.for_model("falcon", alibi=True), "takes no mask of ours"),
        (lambda: config_of("afmoe", **ALTERNATING), "was never tried in this process"),
    ],
)
def test_what_cannot_be_run_is_known_from_the_configuration(config: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_config(config())


def test_a_folder_of_such_a_model_is_refused_before_its_weights_are_read(tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model_dir, tmp_path / "hybrid")
    config_of("qwen3_5_text").save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"never read")
    with pytest.raises(ConfigError, match="qwen3_5_text has linear_attention"):
        LocalPolicy(folder)
