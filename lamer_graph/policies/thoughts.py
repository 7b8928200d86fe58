"""Where in an answer its thoughts are.

What must stay true: what is inside a thought is no part of what the answer says, neither to who reads it nor to who
looks for where it ends. Reading takes time in proportion to the answer, whatever it holds.
"""

from __future__ import annotations

import re

from lamer_graph.policies.control import OPEN_THOUGHT, THOUGHTS

MARKS = frozenset({*(f"<{name}>" for name in THOUGHTS), "[THINK]", "\u25c1think\u25b7"})
"""What opens a thought."""
_CLOSED = re.compile(rf"(?:</(?:{'|'.join(THOUGHTS)})>|\[/THINK\]|\u25c1/think\u25b7)\s*\Z")
_SPACE = r"\s{0,8}"
_THOUGHT = re.compile(
    rf"<{_SPACE}(/?){_SPACE}({'|'.join(THOUGHTS)}){_SPACE}>|\[(/?)((?-i:THINK))\]|◁(/?)(think)▷", re.IGNORECASE
)


def thoughts(answer: str, *, unfinished: bool = False) -> list[tuple[int, int]]:
    """Begin and end of every thought.

    A thought ends at the first closing mark of its kind, or, where none follows, with the answer. A closing mark that
    comes before any other ends a thought that began before the answer (templates open them, and not every policy knows
    that its template does). Of nested marks the outermost pair counts. Of an `unfinished` answer everything that a
    further closing mark of nested ones would make a thought is one.
    """
    found: list[tuple[int, int]] = []
    owed: list[tuple[int, str]] = []  # thoughts in which another one began: a further closing mark ends them later
    begun: int | None = None
    kind = ""
    for mark in _THOUGHT.finditer(answer):
        name = mark[mark.lastindex or 0].lower() + mark[0][0]
        closing = bool(mark[(mark.lastindex or 0) - 1])
        if not kind and closing:
            begun, kind = 0, name
        if begun is not None:
            if name == kind and closing:
                found.append((begun, mark.end()))
                begun = None
            elif name == kind:
                owed.append((begun, name))
        elif not closing:
            begun, kind = mark.start(), name
        elif owed and owed[-1][1] == name:
            found.append((owed.pop()[0], mark.end()))
    if begun is None and owed and unfinished:
        begun = owed[-1][0]
    if begun is not None:
        found.append((begun, len(answer)))
    return found


def may_think(prompt: str, marked: bool) -> bool:
    """Whether the answer to a rendered `prompt` may hold thoughts: it begins inside of one, or it may open one, because
    the model knows marks of thoughts (`marked`) and the prompt does not end behind a closed one."""
    return OPEN_THOUGHT.search(prompt) is not None or (marked and _CLOSED.search(prompt) is None)


def unmarked(thought: str) -> str:
    """A thought without its marks."""
    return _THOUGHT.sub("", thought)


def as_thought(words: str) -> str:
    """Words that a server or provider has told apart as thoughts, as a thought in an answer's text.

    No mark in them may end it early: a backslash goes behind the first character of each.
    """
    broken = _THOUGHT.sub(lambda mark: f"{mark[0][0]}\\{mark[0][1:]}", words)
    return f"<think>\n{broken.strip()}\n</think>\n\n"
