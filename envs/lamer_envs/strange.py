"""Texts that a policy may write and that are no action, or hardly one: no environment may raise on them."""

from __future__ import annotations

from lamer_envs.base import MAX_ACTION_CHARS

STRANGE_TEXTS = (
    "",
    " ",
    "\n\t\r",
    "\x00",
    "{}",
    "[1, 2",
    "((1, 2))",
    "(1, 2), (3, 4)",
    "(0, 0)",
    "(999, 999)",
    "(-1, 2)",
    "(1.5, 2)",
    "(\u0661, \u0662)",  # digits, but not ASCII ones
    "up up",
    "up,,down",
    ",",
    "search[",
    "search[]]",
    "click[\\]",
    "go to nowhere 99",
    "take from",
    "None",
    "\ud800",  # a lone surrogate cannot be encoded
    "\u202e\u0000\U0010ffff",
    "(1, 2)" * 1000,
    "a" * (MAX_ACTION_CHARS + 1),
    "%s %n {0} {state}",
    "../../etc/passwd",
)
