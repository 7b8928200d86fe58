"""Shared prefixes: what is found is what would have been computed, it is bounded, and it ends with the weights."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer, LlamaForCausalLM

from lamer_graph.policies import dense
from lamer_graph.policies.local import LocalPolicy
from lamer_graph.policies.prefixes import Kept, Prefixes, common
from lamer_graph.types import Completion, Message, Sampling
from small_models import SLIDING, config_of, model_of

RULES = "You open cells. Never open a mine. Answer with one cell. " * 4


def asked(count: int, seed: int = 0, turns: int = 4) -> list[tuple[list[Message], Sampling]]:
    """Calls of trials: the same rules, a few tasks, histories that grow and fork; some calls are made twice."""
    rng = random.Random(seed)
    made: list[tuple[list[Message], Sampling]] = []
    while len(made) < count:
        played = f"Task {rng.randrange(3)}."
        for _ in range(rng.randrange(1, turns + 1)):
            messages: list[Message] = [
                {"role": "system", "content": RULES},
                {"role": "user", "content": f"{played} Now: {'? ' * rng.randrange(1, 9)}"},
            ]
            sampling = Sampling(max_tokens=rng.randrange(1, 7), temperature=rng.choice([0.0, 1.0]), seed=len(made))
            made += [(messages, sampling)] * rng.choice([1, 1, 2])
            played += f" You opened {rng.randrange(4)}: {rng.randrange(4)}."
    return made[:count]


async def answers(
    policy: LocalPolicy, calls: Sequence[tuple[list[Message], Sampling]], at_once: int
) -> list[Completion]:
    gate = asyncio.Semaphore(at_once)

    async def one(messages: list[Message], sampling: Sampling) -> Completion:
        async with gate:
            return await policy.generate(messages, sampling)

    return list(await asyncio.gather(*(one(*call) for call in calls)))


def same(one: Sequence[Completion], other: Sequence[Completion]) -> None:
    for mine, theirs in zip(one, other, strict=True):
        assert mine.token_ids == theirs.token_ids
        assert np.allclose(mine.logprobs, theirs.logprobs, atol=2e-4)


# -- the tree ---------------------------------------------------------------------------------------------------------

LAYERS = 2
prompts = st.lists(st.integers(0, 2), min_size=1, max_size=12)


def kept_of(tokens: Sequence[int], begin: int, end: int) -> Kept:
    """Keys and values that say which token stood where, and what stood before it."""
    said = torch.tensor([[[at, hash(tuple(tokens[: at + 1])) % 1000] for at in range(begin, end)]], dtype=torch.float)
    return [(said + layer, -said - layer) for layer in range(LAYERS)]


def found_in(tree: Prefixes, tokens: Sequence[int], most: int) -> int:
    """How much of `tokens` is found; and it is theirs."""
    runs = tree.find(tokens, most)
    at = 0
    for run in runs:
        expected = kept_of(tokens, at, at + run.length)
        for (keys, values), (own_keys, own_values) in zip(run.kept, expected, strict=True):
            assert torch.equal(keys[:, : run.length], own_keys)
            assert torch.equal(values[:, : run.length], own_values)
        at += run.length
    assert at <= most
    return at


@given(added=st.lists(prompts, max_size=20), asked=prompts, capacity=st.integers(1, 60))
def test_what_is_found_is_what_was_kept_of_the_longest_common_beginning(
    added: list[list[int]], asked: list[int], capacity: int
) -> None:
    tree = Prefixes(capacity)
    for tokens in added:
        tree.add(tokens, lambda begin, end, tokens=tokens: kept_of(tokens, begin, end))
        assert tree.tokens <= capacity
        # What was added last is never what is dropped.
        assert found_in(tree, tokens, len(tokens)) == min(len(tokens), capacity)
    longest = max((common(tokens, asked) for tokens in added), default=0)
    found = found_in(tree, asked, len(asked))
    assert found == longest if sum(map(len, added)) <= capacity else found <= longest
    assert found_in(tree, asked, found // 2) == found // 2
    tree.clear()
    assert tree.tokens == tree.known(asked) == 0


def test_what_was_used_longest_ago_goes_first_and_ends_before_beginnings() -> None:
    tree = Prefixes(10)
    for tokens in ([1, 1, 1, 1, 2, 2], [1, 1, 1, 1, 3, 3]):
        tree.add(tokens, lambda begin, end, tokens=tokens: kept_of(tokens, begin, end))
    tree.find([1, 1, 1, 1, 2, 2], 6)
    new = [4, 4, 4, 4]
    tree.add(new, lambda begin, end: kept_of(new, begin, end))
    assert tree.known([1, 1, 1, 1, 3, 3]) == 4
    assert tree.known([1, 1, 1, 1, 2, 2]) == 6
    assert tree.known(new) == 4
    assert tree.tokens == 10


# -- sampling ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["fast", "general"])
@pytest.mark.parametrize("at_once", [1, 7, 40])
async def test_answers_are_those_of_prompts_computed_whole(
    tiny_model_dir: Path, at_once: int, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if path == "general":
        monkeypatch.setattr(dense, "supports", lambda model, **how: False)
    calls = asked(40)
    whole = LocalPolicy(tiny_model_dir, share_prefixes=False)
    shared = LocalPolicy(tiny_model_dir, share_prefixes=True)
    same(await answers(shared, calls, at_once), await answers(whole, calls, at_once))
    tokens = sum(len(shared.encode(messages)) for messages, _ in calls)
    # Mostly the rules, which all prompts begin with; but of prompts that come at once some are wholly alike.
    assert shared._engine.prefixes.reused > tokens * 0.4
    shared.close()
    whole.close()


@pytest.mark.parametrize("family", ["gemma2", "mistral", "gpt_oss", "llama"])
async def test_windows_and_shared_heads_hold_behind_a_found_prefix(family: str, tiny_model_dir: Path) -> None:
    made = {"num_attention_heads": 4, "num_key_value_heads": 2, "attention_dropout": 0.0}
    model = model_of(config_of(family, **{**made, "max_position_embeddings": 1024, **SLIDING.get(family, {})}))
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    whole, shared = (LocalPolicy(model, tokenizer, version=family, share_prefixes=shares) for shares in (False, True))
    assert family != "llama" or isinstance(model, LlamaForCausalLM)
    calls = asked(16, seed=2)
    same(await answers(shared, calls, 5), await answers(whole, calls, 5))
    assert shared._engine.prefixes.reused > 0
    shared.close()
    whole.close()


async def test_a_small_store_of_prefixes_changes_nothing_but_what_is_found(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = asked(30, seed=3)
    whole = LocalPolicy(tiny_model_dir, share_prefixes=False)
    expected = await answers(whole, calls, 6)
    for capacity in (1, 40, 300):
        small = LocalPolicy(tiny_model_dir, share_prefixes=True)
        small._engine.prefixes = Prefixes(capacity)
        same(await answers(small, calls, 6), expected)
        assert small._engine.prefixes.tokens <= capacity
        small.close()
    whole.close()


@pytest.mark.parametrize("how", ["set_weights", "paused", "in place"])
async def test_new_weights_find_nothing_of_the_old(tiny_model_dir: Path, how: str) -> None:
    calls = asked(12, seed=4)
    policy = LocalPolicy(tiny_model_dir, share_prefixes=True)
    before = await answers(policy, calls, 4)
    assert policy._engine.prefixes.tokens
    changed = {name: value * 1.05 for name, value in policy.model.state_dict().items()}
    if how == "set_weights":
        policy.set_weights(changed, "v1")
    elif how == "paused":
        with policy.paused() as model, torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.data = changed[name]
    else:  # against the rules, but seen where torch counts it and the worker was idle meanwhile
        with policy._busy, torch.no_grad():
            for name, parameter in policy.model.named_parameters():
                parameter.copy_(changed[name])
    after = await answers(policy, calls, 4)
    fresh = LocalPolicy(policy.model, policy.tokenizer, share_prefixes=False)
    same(after, await answers(fresh, calls, 4))
    assert [one.logprobs for one in after] != [one.logprobs for one in before]
    policy.close()
    fresh.close()


# -- bit for bit ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["fast", "general"])
async def test_deterministic_answers_are_the_same_bits_whatever_was_read_before(
    tiny_model_dir: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if path == "general":
        monkeypatch.setattr(dense, "supports", lambda model, **how: False)
    calls = asked(24, seed=5)
    whole = LocalPolicy(tiny_model_dir, deterministic=True)
    policy = LocalPolicy(tiny_model_dir, deterministic=True, share_prefixes=True)
    first = await answers(policy, calls, 24)
    same(first, await answers(whole, calls, 24))
    order = list(range(len(calls)))
    for at_once in (1, 5, 24):
        random.Random(at_once).shuffle(order)
        assert await answers(policy, [calls[place] for place in order], at_once) == [first[place] for place in order]
    assert policy._engine.prefixes.reused > 0
    for place in (3, 11):  # with nothing known, and beside nobody
        with policy.paused():
            pass
        assert policy._engine.prefixes.tokens == 0
        assert await answers(policy, [calls[place]], 1) == [first[place]]
    policy.close()
    whole.close()


def test_small_models_compute_every_prompt_whole_unless_they_are_told(tiny_model_dir: Path) -> None:
    usual: Any = LocalPolicy(tiny_model_dir)
    assert usual._engine.prefixes is None
    usual.close()


@pytest.mark.parametrize("fast", [True, False])
async def test_an_adapter_in_the_shared_module_is_sampled_with_and_every_change_of_it(
    tiny_model_dir: Path, fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not fast:
        monkeypatch.setattr(dense, "MERGED_BELOW", 0)
    policy = LocalPolicy(tiny_model_dir)
    settings = LoraConfig(r=4, lora_alpha=16, target_modules="all-linear", init_lora_weights=False)
    model = get_peft_model(policy.model, settings)
    adapted = LocalPolicy(model, policy.tokenizer, share_prefixes=True)
    assert dense.supports(model, adapted=True) is fast
    assert not dense.supports(model)
    calls = asked(10, seed=6)
    before = await answers(adapted, calls, 5)
    with adapted.paused() as module, torch.no_grad():
        for name, parameter in module.named_parameters():
            if "lora_" in name:
                parameter.mul_(1.5)
    after = await answers(adapted, calls, 5)
    assert [one.logprobs for one in before] != [one.logprobs for one in after]
    for (messages, sampling), one in zip(calls, after, strict=True):
        assert np.allclose(one.logprobs, adapted.score(messages, one.token_ids, sampling.temperature), atol=2e-4)
    adapted.close()
    policy.close()
