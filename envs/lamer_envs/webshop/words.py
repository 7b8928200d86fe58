"""Words of the WebShop: which texts count as the same, and which words of a title are its nouns.

What must stay true: two texts are alike exactly if rapidfuzz's token_set_ratio of both after its `default_process`,
rounded to an integer, is above 85 (WebShop, arXiv 2207.01206, with the threshold of its published code); option
values are compared after the first known colour found in them has taken their place.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from rapidfuzz import fuzz, utils

ALIKE_ABOVE = 85

_COLOURS = (
    "alabaster apricot aqua ash asphalt azure banana beige black blue blush bordeaux bronze brown burgundy camel "
    "camo caramel champagne charcoal cheetah chestnut chocolate christmas coffee cognac copper coral cranberry "
    "cream crystal dark denim eggplant elephant espresso fuchsia gold granite grape graphite grass gray green "
    "grey heather indigo ivory ivy khaki lavender lemon leopard light lilac lime magenta maroon mauve merlot "
    "midnight mint mocha multicolor mushroom mustard natural navy nude olive orange peach pewter pink plum purple "
    "rainbow red rose royal rust sand sapphire seashell silver skull slate steel stone stonewash sunflower tan "
    "taupe teal tiger turquoise violet walnut wheat white wine yellow"
)
COLOURS = tuple(_COLOURS.split())
"""The colours that WebShop's scoring knows, in its order (alphabetical): the first one *of this list* that a text
contains is its colour, so `dark red` is `dark` and `blue rose` is `blue`."""

_STOP_WORDS = (
    "a about above after again all also am an and any are as at be because been before being below between both "
    "but by can could did do does doing down during each few for from further get had has have having he her here "
    "hers him his how i if in into is it its itself just me more most my no nor not now of off on once only or "
    "other our out over own please s same she should so some such t than that the their them then there these "
    "they this those through to too under until up us very was we were what when where which while who whom why "
    "will with within without would you your"
)
STOP_WORDS = frozenset(_STOP_WORDS.split())

_WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")


def alike(one: str, other: str) -> bool:
    """Whether two texts count as the same attribute or option value."""
    return round(fuzz.token_set_ratio(one, other, processor=utils.default_process)) > ALIKE_ABOVE


@lru_cache(maxsize=65536)
def colour_of(value: str) -> str:
    """The first of COLOURS that the value contains, else the value."""
    return next((colour for colour in COLOURS if colour in value), value)


def plain_nouns(title: str) -> tuple[str, ...]:
    """All words of a title, lower case, but stop words and numbers: what counts as nouns without a tagger."""
    return tuple(word for word in _WORD.findall(title.lower()) if word not in STOP_WORDS and not word.isdigit())


SPACY_MODELS = ("en_core_web_lg", "en_core_web_md", "en_core_web_sm", "en_core_web_trf")
_NOUN_TAGS = ("NOUN", "PROPN")


@lru_cache(maxsize=1)
def tagger() -> tuple[str, Any] | None:
    """(name, pipeline) of the first spaCy model for English that is installed, None without one."""
    if find_spec("spacy") is None:
        return None
    spacy = import_module("spacy")
    for name in SPACY_MODELS:
        if spacy.util.is_package(name):
            return name, spacy.load(name, exclude=["ner", "lemmatizer"])
    return None


@lru_cache(maxsize=16384)
def title_nouns(title: str) -> Sequence[str]:
    """The nouns of a title by spaCy's tags where spaCy and an English model are installed, else `plain_nouns`."""
    found = tagger()
    if found is None:
        return plain_nouns(title)
    return tuple(token.text.lower() for token in found[1](title) if token.pos_ in _NOUN_TAGS)


_BUDGET = re.compile(
    r"[,;.]?\s*(?:and\s+)?(?:with\s+)?(?:the\s+|a\s+|my\s+)?(?:price|budget|cost\w*|for|under|below)\b[^,;]*?"
    r"(?:\$\s*\d[\d.]*|\d[\d.]*\s*(?:dollars?|usd)\b)(?:\s+or\s+less)?[\s.]*$",
    re.IGNORECASE,
)
"""A price at the end of an instruction."""

_TALK = (
    "need want wants looking look find described describe interested buy order shopping today old broke new one "
    "friend insists say says important item product something purchase like dollars price lower get search am i'm "
    "i'd im"
)
_IDLE = frozenset(_TALK.split())


def keywords(instruction: str, limit: int = 12) -> list[str]:
    """The words of an instruction worth searching for: neither stop words nor talk nor the price, at most `limit`."""
    words = _WORD.findall(_BUDGET.sub("", instruction).lower())
    useful = [word for word in dict.fromkeys(words) if word not in STOP_WORDS and word not in _IDLE]
    return useful[:limit] or words[:limit]
