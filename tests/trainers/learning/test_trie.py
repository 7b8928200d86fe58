"""The token trie: its nodes are the distinct beginnings of its sequences, and it is cut where that costs least."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from forests import dense
from lamer_trainers.learning.tree_attention import Blocks
from lamer_trainers.learning.trie import cut, cut_evenly, grow, in_order

TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=9)
SEQUENCES = st.lists(TOKENS, min_size=1, max_size=14).map(lambda rows: [np.array(row, dtype=np.int64) for row in rows])


def grown(sequences):
    ordered = in_order(sequences)
    return ordered, grow([sequences[number] for number in ordered.numbers], ordered.shared)


def beginnings(sequences):
    return {tuple(sequence[:end].tolist()) for sequence in sequences for end in range(1, len(sequence) + 1)}


@given(SEQUENCES)
def test_the_path_of_a_sequence_spells_it_and_equal_beginnings_are_one_node(sequences):
    ordered, forest = grown(sequences)
    assert sorted(ordered.numbers) == list(range(len(sequences)))
    assert len(forest.tokens) == len(beginnings(sequences))
    node_of = {}
    for number, path in zip(ordered.numbers, forest.paths, strict=True):
        sequence = sequences[number]
        assert forest.tokens[path].tolist() == sequence.tolist()
        assert forest.depth[path].tolist() == list(range(len(sequence)))
        for end, node in enumerate(path.tolist(), start=1):
            assert node_of.setdefault(tuple(sequence[:end].tolist()), node) == node
    assert len(set(node_of.values())) == len(node_of)


@given(SEQUENCES)
def test_a_nodes_range_holds_exactly_what_begins_with_it(sequences):
    _, forest = grown(sequences)
    spelt = {}
    for path in forest.paths:
        for end, node in enumerate(path.tolist(), start=1):
            spelt[node] = forest.tokens[path[:end]].tolist()
    for k, q in itertools.product(spelt, repeat=2):
        assert (k <= q < forest.end[k]) == (spelt[q][: len(spelt[k])] == spelt[k])


@given(SEQUENCES, st.integers(1, 7))
def test_blocks_of_any_size_see_the_ancestors_of_each_node_and_nothing_else(sequences, size):
    _, forest = grown(sequences)
    nodes = np.arange(len(forest.end))
    ancestors = (nodes[None, :] <= nodes[:, None]) & (nodes[:, None] < forest.end[None, :])
    assert dense(Blocks(forest.end, size)).numpy().tolist() == ancestors.tolist()


@settings(deadline=None)
@given(st.lists(TOKENS, min_size=1, max_size=8).map(lambda rows: [np.array(row) for row in rows]), st.integers(1, 30))
def test_a_cut_keeps_to_its_limit_and_no_other_cut_has_fewer_nodes(sequences, limit):
    ordered = in_order(sequences)

    def nodes(run):
        return len(beginnings([sequences[ordered.numbers[place]] for place in run]))

    def total(runs):
        return sum(map(nodes, runs))

    def fits(run):
        return len(run) == 1 or nodes(run) <= limit

    runs = cut(ordered, limit)
    count = len(sequences)
    assert [place for run in runs for place in run] == list(range(count))
    assert all(map(fits, runs))
    others = []
    for size in range(count):
        for inner in itertools.combinations(range(1, count), size):
            edges = [0, *inner, count]
            candidate = [range(a, b) for a, b in itertools.pairwise(edges)]
            if all(map(fits, candidate)):
                others.append(total(candidate))
    assert total(runs) == min(others)


@given(SEQUENCES, st.integers(1, 30), st.integers(1, 4))
def test_an_even_cut_makes_no_further_round_of_all_processes(sequences, limit, processes):
    ordered = in_order(sequences)
    plain, even = cut(ordered, limit), cut_evenly(ordered, limit, processes)
    assert [place for run in even for place in run] == list(range(len(sequences)))
    assert -(-len(even) // processes) <= -(-len(plain) // processes)
