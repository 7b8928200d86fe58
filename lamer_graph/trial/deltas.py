"""Policy calls as the states of a checkpointed trial keep them: a prompt is what is new in it against the one before.

What must stay true: `unpacked(packed(..))` is the calls exactly, whatever the prompts are; a packed call is JSON-plain,
and as long as what is new. Each turn's prompt repeats the turns before it, so an episode of whole prompts grows with
the square of its turns, and a checkpoint per turn of whole episodes with the cube.

A prompt in pieces: `[start, length, new]` copies `length` from `start` of the prompt before it, then adds `new`; a
text's pieces add text, those of token ids add ids. Copies are found by their blocks (as rsync finds them).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

Json = dict[str, Any]

BLOCK = 16
"""Characters, or tokens, that must be equal for a copy to be worth its piece."""

MOST = 0x110000
"""Token ids are compared as characters, of which there are so many; a prompt with a larger one is kept whole."""


def packed(call: Json, before: Json | None) -> Json:
    """`call` (in the form of `Reply.to_json`) by what is new against the call `before`; None: the first is whole."""
    if before is None:
        return call
    texts, old = call["messages"], before["messages"]
    messages = [
        {"role": one["role"], "pieces": pieces(old[i]["content"] if i < len(old) else "", one["content"])}
        for i, one in enumerate(texts)
    ]
    out = {**call, "messages": messages}
    ids = call["prompt_token_ids"]
    if max(ids, default=0) < MOST:
        cut = pieces("".join(map(chr, _comparable(before))), "".join(map(chr, ids)))
        out["prompt_token_ids"] = {"pieces": [[start, length, list(map(ord, new))] for start, length, new in cut]}
    return out


def unpacked(calls: Iterable[Json | None]) -> list[Json | None]:
    """The calls of an episode as they were made, each from the one before it; what is whole is left as it is.

    A None is a turn that nobody recorded.
    """
    made: list[Json | None] = []
    before: Json = {"messages": [], "prompt_token_ids": []}
    for call in calls:
        if call is None:
            made.append(None)
            continue
        old = before["messages"]
        messages = [
            {"role": one["role"], "content": _joined(old[i]["content"] if i < len(old) else "", one["pieces"])}
            if "pieces" in one
            else one
            for i, one in enumerate(call["messages"])
        ]
        ids = call["prompt_token_ids"]
        if isinstance(ids, dict):
            known = _comparable(before)
            ids = [id_ for start, length, new in ids["pieces"] for id_ in (*known[start : start + length], *new)]
        before = {**call, "messages": messages, "prompt_token_ids": ids}
        made.append(before)
    return made


def pieces(old: str, new: str) -> list[list[Any]]:
    """`new` as copies out of `old` and what is new between them: `[start, length, new]`, in order."""
    blocks: dict[str, int] = {}
    for start in range(0, len(old) - BLOCK + 1, BLOCK):
        blocks.setdefault(old[start : start + BLOCK], start)
    found: list[list[Any]] = []
    done = at = 0  # what `found` covers, and where a copy may begin
    length = _equal(old, 0, new, 0)  # most begin as the one before did
    if length:
        found.append([0, length, ""])
        done = at = length
    while at < len(new):
        start = blocks.get(new[at : at + BLOCK], -1)
        if start < 0:
            at += 1
            continue
        back = 0  # the copy may have begun before its block
        while back < min(start, at - done) and old[start - back - 1] == new[at - back - 1]:
            back += 1
        start, at = start - back, at - back
        _add(found, new[done:at])
        length = _equal(old, start, new, at)
        found.append([start, length, ""])
        done = at = at + length
    _add(found, new[done:])
    return found


def _add(found: list[list[Any]], text: str) -> None:
    if not text:
        return
    if not found:
        found.append([0, 0, ""])
    found[-1][2] = text


def _equal(old: str, start: int, new: str, at: int) -> int:
    """How long `old` from `start` and `new` from `at` are equal, by bisection: comparing slices is one instruction."""
    low, high = 0, min(len(old) - start, len(new) - at)
    while low < high:
        middle = (low + high + 1) // 2
        if old[start + low : start + middle] == new[at + low : at + middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _joined(old: str, cut: Sequence[Sequence[Any]]) -> str:
    return "".join(old[start : start + length] + new for start, length, new in cut)


def _comparable(call: Json) -> list[int]:
    """The ids of a whole prompt that others can be compared with."""
    ids: list[int] = call["prompt_token_ids"]
    return ids if max(ids, default=0) < MOST else []
