"""What a policy's answer says: its thoughts set aside, then the first complete pair of tags.

What must stay true: nothing inside a thought counts, neither as an action nor as a reflection; an answer ends at its
first closing tag after the thoughts, so that a model that goes on and imagines the next turn has not played it. Reading
takes time in proportion to the answer, whatever it holds, and bounds are applied to what was read, never before.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from lamer_graph.policies.thoughts import thoughts, unmarked

ACTION_TAG = "action"
REMARK_TAG = "remark"
PLAN_TAG = "plan"
MAX_REMARK_CHARS = 2_000
"""Longest reflection."""
MAX_PLAN_CHARS = 2_000
"""Longest plan."""
MAX_THOUGHT_CHARS = 1_000
"""Longest reasoning of a turn that later prompts show."""

ParseFailure = Literal["no_tag", "unclosed", "empty"]


class Tagged(NamedTuple):
    """The text inside the tags that count, or why there is none. Exactly one of the two is None."""

    text: str | None
    failure: ParseFailure | None


_SPACE = r"\s{0,8}"
_TAGS = {
    tag: re.compile(rf"<{_SPACE}(/?){_SPACE}{tag}{_SPACE}>", re.IGNORECASE)
    for tag in (ACTION_TAG, REMARK_TAG, PLAN_TAG)
}
_PLAN = re.compile(rf"<{_SPACE}{PLAN_TAG}{_SPACE}>.*?(?:<{_SPACE}/{_SPACE}{PLAN_TAG}{_SPACE}>|\Z)", re.I | re.S)


def conclusion(answer: str) -> str:
    """The answer without its thoughts (see `policies.thoughts`)."""
    spans = thoughts(answer)
    return _without(answer, spans) if spans else answer


def _without(answer: str, spans: list[tuple[int, int]]) -> str:
    """What lies outside of the spans, a space in place of each: the words around one do not join."""
    pieces, end = list[str](), 0
    for start, stop in sorted(spans):
        if start > end:
            pieces.append(answer[end:start])
        end = max(end, stop)
    return " ".join([*pieces, answer[end:]])


def extract(answer: str, tag: str) -> Tagged:
    """The first complete `<tag>..</tag>` after the thoughts, any case, white space around names and text tolerated.

    What stands before it may speak of the tags as long as it closes none ("I answer between <action> tags: ..", the
    reasoning of strategy `react` in particular): the text is that behind the last opening tag before the first closing
    one.
    """
    return _first(conclusion(answer), tag)[0]


def _first(said: str, tag: str) -> tuple[Tagged, int]:
    """The tagged text of a conclusion, and where the text behind the last opening tag begins (-1: there is none)."""
    begin = -1
    for mark in _TAGS[tag].finditer(said):
        if not mark[1]:
            begin = mark.end()
        elif begin >= 0:
            text = said[begin : mark.start()].strip()
            return (Tagged(text, None) if text else Tagged(None, "empty")), begin
    return Tagged(None, "no_tag" if begin < 0 else "unclosed"), begin


def extract_remark(answer: str) -> tuple[str, ParseFailure | None]:
    """A reflection's text, bounded, and what was wrong with its form.

    A policy that forgot its tags has still said something: an unclosed tag gives what follows it, no tag the whole
    conclusion, so that an untrained model's reflection is not lost; the failure is reported for the log. Thoughts are
    never remembered: without a conclusion the text is empty.
    """
    said = conclusion(answer)
    (text, failure), begin = _first(said, REMARK_TAG)
    if failure == "unclosed":
        text = said[begin:].strip()
    elif failure == "no_tag":
        text = said.strip()
    return (text or "")[:MAX_REMARK_CHARS], failure


def extract_plan(answer: str) -> str:
    """The plan in an answer, bounded; "" where there is none.

    Thoughts are no plan. A plan that was never closed ends where the action begins, so that it is not lost.
    """
    said = conclusion(answer)
    (text, failure), begin = _first(said, PLAN_TAG)
    if failure == "unclosed":
        text = _before_action(said[begin:])
    return (text or "")[:MAX_PLAN_CHARS]


def reasoning(answer: str) -> str:
    """What was said before the action, thoughts included, their marks and the plan left out; of a long one the end,
    which led to the action."""
    spans = thoughts(answer)
    inside = [answer[start:stop] for start, stop in spans]
    said = _PLAN.sub(" ", _before_action(_without(answer, spans)))
    text = "\n".join(part for part in (*(unmarked(thought).strip() for thought in inside), said.strip()) if part)
    if len(text) <= MAX_THOUGHT_CHARS:
        return text
    return f"({len(text) - MAX_THOUGHT_CHARS} characters left out)\n{text[-MAX_THOUGHT_CHARS:]}"


def _before_action(said: str) -> str:
    """What of a conclusion stands before the tag behind which its action begins."""
    begin = _first(said, ACTION_TAG)[1]
    return (said if begin < 0 else said[: said.rindex("<", 0, begin)]).strip()
