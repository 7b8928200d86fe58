"""Compact prompts stay what they are to the character: the shipped policies read nothing else."""

from __future__ import annotations

import hashlib
import json

import pytest

from random_trials import random_calls

STORED = {
    "minesweeper:4x4-3": (96, "b43b786ded0a347b946e77c5dd29138c08c1af0453e9e16c0f22cab63551c69b"),
    "sokoban:6x6-2": (175, "d422f4ede63fc6f5453b99dca3fa5d577c89c719c5dbbb0a27d37bf107560c78"),
    "alfworld": (248, "461d339b57f1b2f109a0912da8bcee1f1e82874b8180b18ccc10fe82b5db4eb7"),
    "webshop:1000": (188, "1a8fd81d89cd9ad910478150f65ea4f893b38133d0ad581d30b7dbece9acb7ad"),
}
"""Of the calls of eight random trials: how many, and the SHA-256 of their messages."""

MINESWEEPER = """\
Memory
Tried (4, 3)=1; (1, 2)=1; mine at (3, 1)
Note Do not play nonsense at 61.
Episode 2
Open (3, 2)=2 (4, 2)=2 Closed (1, 1) (1, 2) (1, 3) (1, 4) (2, 1) (2, 2) (2, 3) (2, 4) (3, 1) (3, 3) (3, 4) (4, 1) \
(4, 3) (4, 4)
Act"""
WEBSHOP = """\
Memory
Tried found 50; at BD8Q74JJJJ; chose ambidextrous; found 50; at BD8Q74JJJJ; invalid; found 50; at BQL15B5F93; \
read reviews; found 50; at BBQ6SXAN43; invalid
Note Do not play nonsense at 49.
Episode 2
found 50; at B1WF8WYMV1; chose right handed; chose ambidextrous; chose 10 in
Goal chef knife, dishwasher safe, $140
Item dishwasher safe: B1WF8WYMV1
size: 8 in, 10 in, 12 in, ..1 more
style: left handed, right handed, ambidextrous
Act"""


@pytest.mark.parametrize("spec", STORED)
def test_the_prompts_of_random_trials_are_the_stored_ones(spec: str) -> None:
    found, count = hashlib.sha256(), 0
    for seed in range(4):
        for contents in ("both", "none"):
            for call in random_calls(spec, seed, contents, prompt_style="compact"):
                found.update(json.dumps(call.messages).encode())
                count += 1
    assert (count, found.hexdigest()) == STORED[spec]


@pytest.mark.parametrize(("spec", "at", "text"), [("minesweeper:4x4-3", 1, MINESWEEPER), ("webshop:1000", -1, WEBSHOP)])
def test_a_prompt_in_full(spec: str, at: int, text: str) -> None:
    second = [call for call in random_calls(spec, 1, prompt_style="compact") if call.episode == 2]
    assert second[at].messages[1]["content"] == text
