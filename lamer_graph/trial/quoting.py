r"""Text that is not ours, on its way into a prompt: quoted or on one line, and never a control token.

What must stay true: no line of an observation, an action or a memory can be taken for one that we wrote, whatever
Unicode counts as a line break; in a message that has passed `neutral` no control token of the policy's stands, however
its pieces were joined, cut or nested; and `restore` gives back every character. One backslash goes behind the first
character of each (`<\|im_end|>`), and one more where some stood there before, so the way back is never in doubt.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

BREAKS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
"""All that `str.splitlines` takes for the end of a line."""
OURS = frozenset({"<action>", "</action>", "<remark>", "</remark>", "<plan>", "</plan>"})
"""The tags that prompts speak of: ours, though a tokenizer may hold them as special."""

_BREAK = re.compile(f"[{BREAKS}]")
_COMPACT_LINE = re.compile(
    rf"(?<![^{BREAKS}])(?=[^\S{BREAKS}]{{0,64}}(?:(?:Memory|Episode|Note|Tried|Other|Act|Remark)(?!\w)|\(\+\d))"
)
_MARKS = r"\\*+"
_SHAPES = [rf"{bar}(?:{_MARKS}[^\s<>{bar}\\]){{1,64}}{_MARKS}{bar}{_MARKS}>" for bar in (r"\|", "\uff5c")]


def quote(text: str) -> str:
    """Every line marked as a quotation, so that it cannot pass for a part of the prompt."""
    return "\n".join("> " + line for line in text.splitlines()) or "> (nothing)"


def one_line(text: str) -> str:
    """A text that cannot start a line of its own; one without line breaks as it is."""
    return " ".join(text.split()) if _BREAK.search(text) else text


def marked(text: str) -> str:
    """Lines that could pass for one of a compact prompt's own are marked as quotations, the others stay as they are."""
    if not _BREAK.search(text):  # most observations are one line, which begins in one place
        return f"> {text}" if _COMPACT_LINE.match(text) else text
    return _COMPACT_LINE.sub("> ", text)


def neutral(text: str, control: frozenset[str]) -> str:
    """The text with every control token broken by a backslash; `<|name|>` is taken for one of any tokenizer."""
    found = _pattern(control)[0]
    return found.sub(r"\g<0>\\", text) if found.search(text) else text  # a template is costly, and seldom needed


def restore(text: str, control: Iterable[str] = ()) -> str:
    """The inverse of `neutral`; the tokens that the text really held suffice (`held`; a logged trial's `escaped`)."""
    return _pattern(frozenset(control))[1].sub(lambda match: match[0][0], text)


def held(texts: Iterable[str], control: frozenset[str]) -> list[str]:
    """The control tokens that stand broken in texts that have passed `neutral`."""
    broken = _pattern(control)[1]
    matches = (match for text in texts for match in broken.finditer(text))
    return sorted({(match[0][0] + match[match.lastindex or 0]).replace("\\", "") for match in matches})


@lru_cache(maxsize=64)
def _pattern(control: frozenset[str]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """The first character of every token, overlapping ones too, and the same with a backslash behind it.

    Backslashes between a token's characters are looked over, so what is found does not change with what is inserted. A
    token of one character is a character, and one that holds a backslash (no tokenizer we know of has any) is left.
    """
    endings: dict[str, list[str]] = {"<": list(_SHAPES)}
    for token in sorted(control - OURS, key=lambda token: (-len(token), token)):
        if len(token) > 1 and "\\" not in token:
            endings.setdefault(token[0], []).append(_MARKS.join(map(re.escape, token[1:])))
    rests = {re.escape(first): f"{_MARKS}({'|'.join(rest)})" for first, rest in endings.items()}
    found = "|".join(f"{first}(?={rest})" for first, rest in rests.items())
    broken = "|".join(rf"{first}\\(?={rest})" for first, rest in rests.items())
    return re.compile(found), re.compile(broken)
