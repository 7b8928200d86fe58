"""LocalPolicy: exact tokens and logprobs, batching that changes nothing but speed, weights swapped between calls."""

from __future__ import annotations

import asyncio
import math
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM, Qwen3ForCausalLM

from lamer_graph.errors import ConfigError, PolicyError, PolicyResponseError, PromptTooLongError
from lamer_graph.policies import dense
from lamer_graph.policies.base import run_sync
from lamer_graph.policies.local import LocalPolicy
from lamer_graph.policies.sampling import truncate
from lamer_graph.types import Completion, Message, Sampling


@pytest.fixture(scope="module")
def policy(tiny_model_dir: Path) -> Any:
    made = LocalPolicy(tiny_model_dir)
    yield made
    made.close()


def chat(text: str, system: str | None = None) -> list[Message]:
    head: list[Message] = [{"role": "system", "content": system}] if system else []
    return [*head, {"role": "user", "content": text}]


def requests(count: int, seed: int = 0, max_tokens: int = 8) -> list[tuple[list[Message], Sampling]]:
    rng = random.Random(seed)
    made = []
    for number in range(count):
        cells = " ".join(
            f"({rng.randrange(6)}, {rng.randrange(6)})={rng.randrange(4)}" for _ in range(rng.randrange(9))
        )
        temperature = rng.choice([0.0, 0.7, 1.0])
        sampling = Sampling(temperature=temperature, max_tokens=rng.randrange(1, max_tokens + 1), seed=number)
        made.append((chat(f"Open {cells} Act"), sampling))
    return made


async def answer(policy: LocalPolicy, asked: Sequence[tuple[list[Message], Sampling]]) -> list[Completion]:
    return list(await asyncio.gather(*(policy.generate(messages, sampling) for messages, sampling in asked)))


# -- what a completion says -------------------------------------------------------------------------------------------


async def test_logprobs_are_those_of_the_model_whatever_the_batch(policy: LocalPolicy) -> None:
    asked = requests(60)
    for (messages, sampling), completion in zip(asked, await answer(policy, asked), strict=True):
        assert completion.trainable
        scored = policy.score(messages, completion.token_ids, sampling.temperature)
        assert np.allclose(completion.logprobs, scored, atol=2e-4)
        assert policy.score(completion.prompt_token_ids, completion.token_ids, sampling.temperature) == scored


async def test_prompt_ids_are_the_chat_template_and_text_is_the_decoded_answer(policy: LocalPolicy) -> None:
    messages = chat("Open (0, 1)=2 Act", system="You play a game.")
    completion = await policy.generate(messages, Sampling(max_tokens=6, seed=3))
    tokenizer = policy.tokenizer
    assert completion.prompt_token_ids == tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False
    )
    assert completion.text == tokenizer.decode(completion.token_ids, skip_special_tokens=True)
    assert await policy.count_tokens(messages) == len(completion.prompt_token_ids)
    assert completion.finish_reason == "length"
    assert len(completion.token_ids) == 6
    assert completion.policy_version == policy.version == "tiny-random"


def small_model(family: str, tokenizer: Any) -> Any:
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 96, "vocab_size": len(tokenizer)}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "initializer_range": 0.1}
    made: Any = LlamaForCausalLM if family == "llama" else Qwen3ForCausalLM
    torch.manual_seed(0)
    return made(made.config_class(**sizes, **heads, eos_token_id=tokenizer.eos_token_id)).eval()


@pytest.mark.parametrize("path", ["fast", "general"])
@pytest.mark.parametrize("family", ["qwen3", "llama"])
async def test_other_models_answer_with_their_own_logprobs_too(
    policy: LocalPolicy, family: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_model(family, policy.tokenizer)
    assert dense.supports(model)
    if path == "general":
        monkeypatch.setattr(dense, "supports", lambda model, **how: False)
    other = LocalPolicy(model, policy.tokenizer, version="other")
    asked = requests(30, seed=9)
    for (messages, sampling), completion in zip(asked, await answer(other, asked), strict=True):
        scored = other.score(messages, completion.token_ids, sampling.temperature)
        assert np.allclose(completion.logprobs, scored, atol=2e-4)
    other.close()


async def test_the_stop_token_ends_the_answer_and_is_kept(tiny_model_dir: Path) -> None:
    policy = LocalPolicy(tiny_model_dir)
    stop = policy.tokenizer.eos_token_id
    # The output matrix is tied to the embedding: scaling the stop token's row makes it likely, not certain.
    with torch.no_grad():
        policy.model.get_output_embeddings().weight[stop] *= 2.5
    completions = await answer(policy, [(chat(f"Act {i}"), Sampling(max_tokens=200, seed=i)) for i in range(40)])
    ended = [completion for completion in completions if completion.finish_reason == "stop"]
    assert ended
    for completion in ended:
        assert list(completion.token_ids).index(stop) == len(completion.token_ids) - 1
        assert "<|im_end|>" not in completion.text
    policy.close()


async def test_the_same_seed_gives_the_same_answer_and_another_seed_another(policy: LocalPolicy) -> None:
    messages = chat("Act")
    first, again, other = await answer(policy, [(messages, Sampling(max_tokens=12, seed=seed)) for seed in (5, 5, 6)])
    assert first.token_ids == again.token_ids
    assert first.token_ids != other.token_ids


async def test_greedy_takes_the_most_likely_token(policy: LocalPolicy) -> None:
    messages = chat("Act")
    completion = await policy.generate(messages, Sampling(temperature=0.0, max_tokens=3))
    logits = policy.model(torch.tensor([completion.prompt_token_ids])).logits[0, -1]
    assert completion.token_ids[0] == int(logits.argmax())


# -- sampling ---------------------------------------------------------------------------------------------------------


async def test_truncated_sampling_reports_the_truncated_distribution(policy: LocalPolicy) -> None:
    messages = chat("Act")
    sampling = Sampling(temperature=0.7, top_p=0.8, top_k=20, max_tokens=1)
    completions = await answer(policy, [(messages, sampling.with_seed(seed)) for seed in range(60)])
    with torch.no_grad():
        logits = policy.model(torch.tensor([policy.encode(messages)])).logits[:, -1] / 0.7
    cut = truncate(logits, torch.tensor([20]), torch.tensor([0.8])).log_softmax(-1)[0]
    for completion in completions:
        assert completion.logprobs[0] == pytest.approx(float(cut[completion.token_ids[0]]), abs=1e-4)
    assert len({completion.token_ids[0] for completion in completions}) > 5


# -- batching ---------------------------------------------------------------------------------------------------------


async def test_rows_of_a_batch_do_not_see_each_other(policy: LocalPolicy) -> None:
    asked = requests(40, seed=1, max_tokens=20)
    together = await answer(policy, asked)
    for (messages, sampling), completion in list(zip(asked, together, strict=True))[::4]:
        alone = await policy.generate(messages, sampling)
        assert alone.token_ids == completion.token_ids
        assert np.allclose(alone.logprobs, completion.logprobs, atol=2e-4)


async def test_short_answers_are_not_held_up_by_a_long_one(policy: LocalPolicy) -> None:
    long = asyncio.create_task(policy.generate(chat("Reflect"), Sampling(max_tokens=400, seed=1)))
    await asyncio.sleep(0.02)
    for seed in range(5):
        await policy.generate(chat("Act"), Sampling(max_tokens=2, seed=seed))
    assert not long.done()
    assert len((await long).token_ids) == 400 or (await long).finish_reason == "stop"


async def test_more_callers_than_rows_are_all_served(tiny_model_dir: Path) -> None:
    policy = LocalPolicy(tiny_model_dir, max_batch=4)
    asked = requests(30, seed=2)
    answers = zip(asked, await answer(policy, asked), strict=True)
    assert all(1 <= len(done.token_ids) <= sampling.max_tokens for (_, sampling), done in answers)
    policy.close()


async def permuted_runs_agree(policy: LocalPolicy) -> None:
    asked = requests(40, seed=3, max_tokens=6)
    reference = await answer(policy, asked)
    for seed in (0, 1):
        order = list(range(len(asked)))
        random.Random(seed).shuffle(order)
        for place in order[::3]:
            # Alone or in small company, and beside strangers.
            strangers = requests(seed + 1, seed=place + 50)
            got = await answer(policy, [*strangers, asked[place]])
            assert got[-1] == reference[place]
        shuffled = await answer(policy, [asked[place] for place in order])
        assert shuffled == [reference[place] for place in order]


async def test_deterministic_results_repeat_bit_for_bit_in_any_order_and_company(tiny_model_dir: Path) -> None:
    policy = LocalPolicy(tiny_model_dir, deterministic=True)
    await permuted_runs_agree(policy)
    policy.close()


async def test_deterministic_and_fast_mode_mean_the_same_distribution(
    policy: LocalPolicy, tiny_model_dir: Path
) -> None:
    exact = LocalPolicy(tiny_model_dir, deterministic=True)
    asked = requests(20, seed=4)
    for one, other in zip(await answer(exact, asked), await answer(policy, asked), strict=True):
        assert one.token_ids == other.token_ids
        assert np.allclose(one.logprobs, other.logprobs, atol=2e-4)
    exact.close()


def test_sync_callers_on_threads_and_loops_share_one_worker(policy: LocalPolicy) -> None:
    async def several() -> list[Completion]:
        return await answer(policy, [(chat("Act"), Sampling(max_tokens=3, seed=seed)) for seed in range(4)])

    reference = [completion.token_ids for completion in run_sync(several())]
    assert [completion.token_ids for completion in asyncio.run(several())] == reference
    assert policy.generate_sync(chat("Act"), Sampling(max_tokens=3, seed=2)).token_ids == reference[2]


async def test_a_caller_that_gives_up_leaves_no_trace(policy: LocalPolicy) -> None:
    task = asyncio.create_task(policy.generate(chat("Act"), Sampling(max_tokens=300, seed=1)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await policy.generate(chat("Act"), Sampling(max_tokens=2, seed=1))).token_ids


# -- weights ----------------------------------------------------------------------------------------------------------


async def test_new_weights_answer_under_their_own_version(tiny_model_dir: Path) -> None:
    policy = LocalPolicy(tiny_model_dir, version="policy-v0000")
    messages, sampling = chat("Act"), Sampling(max_tokens=4, seed=1)
    before = await policy.generate(messages, sampling)
    weights = {name: value * 1.1 for name, value in policy.model.state_dict().items()}
    policy.set_weights(weights, "policy-v0001")
    after = await policy.generate(messages, sampling)
    assert (before.policy_version, after.policy_version) == ("policy-v0000", "policy-v0001")
    assert after.logprobs != before.logprobs
    assert np.allclose(after.logprobs, policy.score(messages, after.token_ids), atol=2e-4)
    policy.close()


def test_weights_that_are_not_named_stay_and_a_refusal_changes_nothing(tiny_model_dir: Path) -> None:
    policy = LocalPolicy(tiny_model_dir, version="policy-v0000")
    before = {name: value.clone() for name, value in policy.model.state_dict().items()}
    name = "model.layers.1.mlp.up_proj.weight"
    policy.set_weights({name: before[name] * 2}, "policy-v0001")
    after = policy.model.state_dict()
    assert policy.version == "policy-v0001"
    assert [key for key, value in after.items() if not torch.equal(value, before[key])] == [name]
    for wrong, message in (
        ({"nothing": torch.zeros(1)}, "do not fit the model: it has none of the name 'nothing'"),
        ({"model.norm.weight": torch.zeros(3)}, r"do not fit the model: 'model.norm.weight' is of shape \(128,\)"),
    ):
        with pytest.raises(ConfigError, match=message):
            policy.set_weights({name: before[name], **wrong}, "policy-v0002")
    assert policy.version == "policy-v0001"
    assert torch.equal(policy.model.state_dict()[name], before[name] * 2)
    policy.close()


async def test_a_trainers_mixed_precision_does_not_reach_sampling(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """accelerate wraps the trained module's own forward; on a GPU every forward is the general one."""
    monkeypatch.setattr(dense, "supports", lambda model, **how: False)
    policy = LocalPolicy(tiny_model_dir)
    asked = requests(6)
    before = await answer(policy, asked)
    scored = policy.score(before[0].prompt_token_ids, before[0].token_ids)
    policy.model.forward = torch.autocast("cpu", torch.bfloat16)(policy.model.forward)
    after = await answer(policy, asked)
    assert [completion.logprobs for completion in after] == [completion.logprobs for completion in before]
    assert policy.score(before[0].prompt_token_ids, before[0].token_ids) == scored
    policy.close()


async def test_adapters_put_into_the_shared_model_are_sampled_with(tiny_model_dir: Path) -> None:
    policy = LocalPolicy(tiny_model_dir)
    asked = requests(6, seed=5)
    before = await answer(policy, asked)
    with policy.paused() as model:
        get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    after = await answer(policy, asked)
    assert [completion.logprobs for completion in after] != [completion.logprobs for completion in before]
    for (messages, sampling), completion in zip(asked, after, strict=True):
        scored = policy.score(messages, completion.token_ids, sampling.temperature)
        assert np.allclose(completion.logprobs, scored, atol=2e-4)
    policy.close()


async def test_no_completion_mixes_two_versions(tiny_model_dir: Path) -> None:
    policy = LocalPolicy(tiny_model_dir, version="v0")
    asked = [(chat(f"Act {i}"), Sampling(max_tokens=30, seed=i)) for i in range(40)]
    running = asyncio.gather(*(policy.generate(messages, sampling) for messages, sampling in asked))
    await asyncio.sleep(0.03)

    def update() -> None:
        with policy.paused() as model, torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.2)
            policy.version = "v1"

    await asyncio.to_thread(update)
    late = await answer(policy, asked)
    early = await running
    assert {completion.policy_version for completion in late} == {"v1"}
    for (messages, _), completion in zip(asked * 2, [*early, *late], strict=True):
        if completion.policy_version == "v1":
            assert np.allclose(completion.logprobs, policy.score(messages, completion.token_ids), atol=1e-3)
    old = LocalPolicy(tiny_model_dir)
    for (messages, _), completion in zip(asked, early, strict=True):
        if completion.policy_version == "v0":
            assert np.allclose(completion.logprobs, old.score(messages, completion.token_ids), atol=1e-3)
    assert any(completion.policy_version == "v0" for completion in early)
    policy.close()
    old.close()


# -- failures ---------------------------------------------------------------------------------------------------------


async def test_a_prompt_beyond_the_context_says_by_how_much(policy: LocalPolicy) -> None:
    messages = chat("é" * 2500)
    over = await policy.count_tokens(messages) + 1 - 4096
    with pytest.raises(PromptTooLongError, match=rf"exceeds the context of 4096 of 'tiny-random' by {over}"):
        await policy.generate(messages, Sampling())


async def test_an_answer_is_cut_where_the_context_ends(policy: LocalPolicy) -> None:
    messages = chat("é" * 2030)
    room = 4096 - await policy.count_tokens(messages)
    completion = await policy.generate(messages, Sampling(max_tokens=500, seed=0))
    assert (len(completion.token_ids), completion.finish_reason) == (room, "length")
    assert room < 500


@pytest.mark.parametrize("wrong", [{"temperature": -1.0}, {"top_p": 0.0}, {"top_k": -1}, {"max_tokens": 0}])
async def test_impossible_sampling_is_refused(policy: LocalPolicy, wrong: dict[str, Any]) -> None:
    with pytest.raises(PolicyResponseError, match="sampling needs"):
        await policy.generate(chat("Act"), Sampling(**wrong))


async def test_broken_weights_are_an_error_and_not_a_completion(tiny_model_dir: Path) -> None:
    policy = LocalPolicy(tiny_model_dir)
    with policy.paused() as model, torch.no_grad():
        next(model.parameters()).fill_(math.nan)
    with pytest.raises(PolicyError, match="not finite"):
        await policy.generate(chat("Act"), Sampling())
    policy.close()


async def test_a_failing_forward_pass_fails_its_callers_and_not_the_policy(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = LocalPolicy(tiny_model_dir)
    engine = policy._engine
    forward = engine._forward

    def broken(*args: Any) -> torch.Tensor:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(engine, "_forward", broken)
    with pytest.raises(PolicyError, match="sampling failed: RuntimeError: out of memory"):
        await policy.generate(chat("Act"), Sampling())
    monkeypatch.setattr(engine, "_forward", forward)
    assert (await policy.generate(chat("Act"), Sampling(max_tokens=2))).trainable
    policy.close()
    with pytest.raises(PolicyError, match="closed"):
        await policy.generate(chat("Act"), Sampling())


def test_what_cannot_be_loaded_is_named(tiny_model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no model at"):
        LocalPolicy(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="dtype 'float31'"):
        LocalPolicy(tiny_model_dir, dtype="float31")
    with pytest.raises(ConfigError, match="no adapter at"):
        LocalPolicy(tiny_model_dir, adapter=tmp_path)
    with pytest.raises(ConfigError, match="without its tokenizer"):
        LocalPolicy(LocalPolicy(tiny_model_dir).model)


def test_without_torch_the_extra_is_named_before_any_work(tmp_path: Path) -> None:
    blocked = "import sys; sys.modules['torch'] = None; "
    library = "\ntry: from lamer_graph import LocalPolicy\nexcept ImportError as error: print(error)"
    said = subprocess.run([sys.executable, "-c", blocked + library], capture_output=True, text=True, check=True)
    assert "pip install 'lamer-graph[train]'" in said.stdout
    command = "from lamer_graph.cli import main; main(['eval', '--tasks', '1'])"
    refused = subprocess.run([sys.executable, "-c", blocked + command], capture_output=True, text=True, cwd=tmp_path)
    assert refused.returncode == 2, refused.stderr
    assert "pip install 'lamer-graph[train]'" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
