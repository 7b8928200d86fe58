"""From samples to micro-batches: nothing lost, nothing twice, within the budget, the same shapes on every process."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forests import dense
from lamer_trainers.learning.packing import blocks, pack, passes, split
from lamer_trainers.learning.samples import Credit, samples_of
from training import make_trials


@given(count=st.integers(1, 60), parts=st.integers(1, 7), seed=st.integers(0, 3))
def test_mini_batches_share_out_every_sample_evenly(count, parts, seed):
    cut = split(count, parts, (seed, 0))
    assert sorted(i for part in cut for i in part) == list(range(count))
    assert max(map(len, cut)) - min(map(len, cut)) <= 1


@given(st.lists(st.integers(1, 60), min_size=1, max_size=50), st.integers(1, 300), st.integers(1, 4))
def test_blocks_keep_to_the_budget_and_lose_nothing(lengths, budget, processes):
    cut = blocks(lengths, range(len(lengths)), budget, processes)
    assert sorted(i for block in cut for i in block) == list(range(len(lengths)))
    for block in cut:
        rows = -(-len(block) // processes)
        assert rows == 1 or rows * max(lengths[i] for i in block) <= budget


@settings(max_examples=40, deadline=None)
@given(
    calls=st.integers(1, 40),
    different=st.integers(1, 40),
    budget=st.integers(1, 400),
    processes=st.integers(1, 3),
    seed=st.integers(0, 3),
    depth=st.sampled_from([None, 1, 3]),
    shared=st.booleans(),
)
def test_every_answer_token_is_trained_exactly_once_by_one_process(
    calls, different, budget, processes, seed, depth, shared
):
    samples = samples_of(make_trials(calls, seed=seed, different=different, depth=depth), Credit())
    advantages = [float(i + 1) for i in range(len(samples))]
    found, shapes = [], []
    for process in range(processes):
        packed = pack(
            samples,
            advantages,
            range(len(samples)),
            budget=budget,
            pad=0,
            process=process,
            processes=processes,
            shared=shared,
        )
        shapes.append([len(micro.tensors["advantages"]) for micro in packed])
        for micro in packed:
            data, computed = micro.tensors, micro.computed
            assert micro.tokens == int(data["completion_mask"].sum()) <= micro.all_tokens
            rows = torch.nonzero(data["advantages"]).flatten().tolist()
            trained = [samples[int(data["advantages"][row]) - 1] for row in rows]
            alone = {(*sample.prompt_token_ids, *sample.token_ids)[:-1] for sample in trained}
            assert computed.ids.numel() <= max(budget, max(map(len, alone))) or len(alone) == 1
            for row, sample in zip(rows, trained, strict=True):
                used = data["completion_mask"][row].bool()
                if not used.any():
                    continue
                assert data["completion_ids"][row][used].tolist() == list(sample.token_ids)
                assert data["logged_logps"][row][used].tolist() == pytest.approx(list(sample.logprobs))
                reading = micro.reading
                at = reading.at[row][used]
                assert reading.tokens[at].tolist() == list(sample.token_ids)
                places = reading.heads[reading.head[at]]
                assert [history(computed, int(place)) for place in places] == [
                    [*sample.prompt_token_ids, *sample.token_ids[:n]] for n in range(len(sample.token_ids))
                ]
                found.append(int(data["advantages"][row]))
    assert sorted(found) == list(range(1, len(samples) + 1))
    assert all(shape == shapes[0] for shape in shapes)


def history(computed, place):
    """The tokens that a place of a pass sees, by its attention and its positions."""
    if computed.tree is None:
        row, column = divmod(place, computed.ids.shape[1])
        assert column < computed.lengths[row]
        return computed.ids[row, : column + 1].tolist()
    (nodes,) = torch.nonzero(dense(computed.tree)[place], as_tuple=True)
    assert computed.positions[0, nodes].tolist() == list(range(len(nodes)))
    return computed.ids[0, nodes].tolist()


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_processes_that_wait_for_each_other_get_forests_of_like_size(processes):
    rng = np.random.default_rng(0)
    stem = rng.integers(3, 300, 40)
    sequences = [np.concatenate([stem, rng.integers(3, 300, 10)]) for _ in range(31)]
    dealt = passes(sequences, budget=200, processes=processes)
    assert sorted(i for shares in dealt for share in shares for i in share) == list(range(31))
    for shares in dealt[:-1]:
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_rows_that_will_all_be_computed_all_count():
    samples = samples_of(make_trials(40, seed=1, different=3), Credit())
    options = {"budget": 120, "pad": 0, "shared": False}
    every = pack(samples, [0.0] * len(samples), range(len(samples)), once=False, **options)
    sizes = [tuple(micro.computed.ids.shape) for micro in every]
    assert sum(rows for rows, _ in sizes) == len(samples)
    assert all(rows == 1 or rows * width <= 120 for rows, width in sizes)
    once = pack(samples, [0.0] * len(samples), range(len(samples)), **options)
    assert sum(len(micro.computed.ids) for micro in once) == 3
