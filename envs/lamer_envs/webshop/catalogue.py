"""Products of a WebShop: the record that every page is drawn from, and the catalogue that is generated.

What must stay true: product i of a generated catalogue is a pure function of (catalogue seed, i), the same in every
process and whatever the size of the catalogue. So nothing is stored: a shop of 100,000 products is a formula and a
cache. Products come in families of five that differ in one thing each (a quality in the title, a quality told only
inside, an option that is not offered, the price), which are the confusable near-misses of one another.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from lamer_envs.webshop import lexicon
from lamer_envs.webshop.lexicon import (
    BRAND_ENDS,
    BRAND_STARTS,
    BULLETS,
    CHOICES,
    CLOSINGS,
    KINDS,
    MODELS,
    OPENINGS,
    QUALITIES,
    QUALITY_NOUNS,
    REVIEWS,
    Choice,
    Kind,
)
from lamer_envs.webshop.words import plain_nouns

T = TypeVar("T")
Draw = Callable[[], float]
"""A generator's `random()`: the one method whose sequence is the same in every Python."""

FAMILY = 5
"""Products of one family: one base and four near-misses of it."""

DEFAULT_PRICE = 100.0
"""Price in dollars of a product that states none."""


@dataclass(frozen=True, slots=True)
class Review:
    title: str
    score: str
    body: str


@dataclass(frozen=True, slots=True)
class Instruction:
    """A person's wish for one product: text without a price, asked attributes, asked option values."""

    text: str
    attributes: tuple[str, ...]
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Product:
    """One product. `path` is the category path, separated by LEVEL; `price` in dollars is what a purchase is charged,
    `tag` what the page shows. `options` maps lower-case names to lower-case values. `nouns` are those of the title in
    lower case, None where they have to be found. `wish` is the synthetic instruction (its options are unused) and
    `people` are the human ones, both only in data that has them."""

    asin: str
    title: str
    category: str
    query: str
    path: str
    bullets: tuple[str, ...]
    description: str
    attributes: tuple[str, ...]
    options: dict[str, tuple[str, ...]]
    price: float
    tag: str
    rating: str
    reviews: tuple[Review, ...]
    nouns: tuple[str, ...] | None = None
    wish: Instruction | None = None
    people: tuple[Instruction, ...] = ()


class Catalogue(Protocol):
    """Products by position. `key` names the contents: equal key, equal products."""

    @property
    def key(self) -> str: ...

    def __len__(self) -> int: ...

    def product(self, at: int) -> Product: ...

    def find(self, asin: str) -> int | None:
        """The position of the product with this id (any case), None if there is none."""
        ...

    def nouns(self, title: str, asin: str) -> Sequence[str]:
        """The nouns of a title, lower case, in order and with repetitions: those stored with the product of this id
        if the title is its title, else found in the title."""
        ...


def indexed_text(product: Product) -> str:
    """What the search engine reads of a product: title, bullets, description, attributes, option values."""
    values = [value for group in product.options.values() for value in group]
    parts = (product.title, *product.bullets, product.description, *product.attributes, *values)
    return " \n ".join(parts)


# -- the generated catalogue ----------------------------------------------------------------------------------------

_DIGITS = "0123456789ABCDEFGHJKLMNPQRSTVWXY"
_THREE_DIGITS = [a + b + c for a in _DIGITS for b in _DIGITS for c in _DIGITS]
_ID_BITS = 45
_ID_STEP = 0x0B5A_3C69_72D1 | 1
_ID_BACK = pow(_ID_STEP, -1, 1 << _ID_BITS)


class GeneratedCatalogue:
    """`size` products drawn from `seed`. Safe to share between threads."""

    def __init__(self, size: int, seed: int = 0) -> None:
        self.size, self.seed = size, seed
        self._offset = int.from_bytes(hashlib.blake2b(f"asin {seed}".encode(), digest_size=5).digest(), "big")
        self._order = random.Random(f"webshop kinds {seed}").sample(range(len(KINDS)), len(KINDS))
        self.family = lru_cache(maxsize=2048)(self._family)

    @property
    def key(self) -> str:
        return f"generated {self.seed} {self.size} {_generator_digest()}"

    def __len__(self) -> int:
        return self.size

    def product(self, at: int) -> Product:
        if not 0 <= at < self.size:
            raise IndexError(at)
        return self.family(at // FAMILY)[at % FAMILY]

    def find(self, asin: str) -> int | None:
        asin = asin.strip().upper()
        if len(asin) != 10 or asin[0] != "B" or any(digit not in _DIGITS for digit in asin[1:]):
            return None
        code = 0
        for digit in asin[1:]:
            code = code * 32 + _DIGITS.index(digit)
        at = ((code - self._offset) * _ID_BACK) % (1 << _ID_BITS)
        return at if at < self.size else None

    def nouns(self, title: str, asin: str) -> Sequence[str]:
        at = self.find(asin)
        item = None if at is None else self.product(at)
        return item.nouns if item and item.nouns is not None and item.title == title else plain_nouns(title)

    def _asin(self, at: int) -> str:
        code = (at * _ID_STEP + self._offset) % (1 << _ID_BITS)
        three = _THREE_DIGITS
        return f"B{three[code >> 30]}{three[(code >> 15) & 0x7FFF]}{three[code & 0x7FFF]}"

    def kind(self, family: int) -> Kind:
        return KINDS[self._order[family % len(KINDS)]]

    def _family(self, family: int) -> tuple[Product, ...]:
        rng = random.Random(f"webshop family {self.seed} {family}")
        draw = rng.random
        kind = self.kind(family)
        brand = pick(draw, BRAND_STARTS) + pick(draw, BRAND_ENDS)
        model = pick(draw, MODELS)
        number, step = 10 + int(draw() * 80), 1 + int(draw() * 9)
        # The order decides which two qualities are in the title; the last one is told in the description only.
        axes = [_TOLD[quality] for quality in _shuffled(draw, kind.qualities)]
        base = [pick(draw, axis) for axis in axes]
        choices = [CHOICES[name] for name in kind.choices]
        offered = [_offer(draw, choice.values) for choice in choices]
        low, high = kind.price
        price = int(low + draw() * (high - low)) + pick(draw, (0.0, 0.49, 0.5, 0.95, 0.99))
        rise = 0.0 if draw() < 0.5 else (1 + int(draw() * 4)) * 0.75
        order = _shuffled(draw, range(FAMILY))
        shown, inside, turn = int(draw() * 2), 2 + int(draw() * (len(axes) - 2)), draw()
        gap = int(turn * len(offered[0]))
        fewer = [offered[0][:gap] + offered[0][gap + 1 :], *offered[1:]]
        dearer = price + 50 + int(turn * 20)  # above every upper bound that a goal on the base can have
        usual = _stock(choices, offered, price, rise)
        members = []
        for place, member in enumerate(order):
            told, stock = base, usual
            if member == 1:
                told = _turned(base, axes, shown, turn)
            elif member == 2:
                told = _turned(base, axes, inside, turn)
            elif member == 3:
                stock = _stock(choices, fewer, price, rise)
            elif member == 4:
                stock = _stock(choices, offered, dearer, rise)
            at = family * FAMILY + place
            members.append(self._member(draw, at, kind, brand, f"{model} {number + place * step}", told, stock))
        return tuple(members)

    def _member(
        self, draw: Draw, at: int, kind: Kind, brand: str, model: str, told: Sequence[_Told], stock: _Stock
    ) -> Product:
        first, second, last = told[0], told[1], told[-1]
        style = int(draw() * 3)
        if style == 0:
            title = f"{brand} {model} {kind.phrase}, {first.value}, {second.value}"
        elif style == 1:
            title = f"{brand} {kind.phrase} {model} - {second.value} and {first.value}"
        else:
            title = f"{first.value} {kind.phrase} by {brand}, {model}, {second.value}"
        tail = pick(draw, BULLETS).format(brand=brand, department=kind.department)
        opening = pick(draw, OPENINGS).format(brand=brand, model=model, thing=kind.thing)
        rating, reviews = pick(draw, _opinions(int(draw() * 4)))
        return Product(
            asin=self._asin(at),
            title=title[0].upper() + title[1:],
            category=kind.department,
            query=kind.phrase,
            path=kind.path,
            bullets=(*[each.sentence for each in told[:-1]], tail),
            description=f"{opening} {last.sentence}{stock.listing} {pick(draw, CLOSINGS)}",
            attributes=tuple([each.value for each in told]),
            options=stock.options,
            price=round(stock.low + draw() * (stock.high - stock.low), 2),
            tag=stock.tag,
            rating=rating,
            reviews=reviews,
            nouns=(brand.lower(), model.split()[0].lower(), *kind.nouns, *first.nouns, *second.nouns),
        )


class _Told(NamedTuple):
    """One value of a quality with the sentence that tells it and the nouns in it."""

    value: str
    sentence: str
    nouns: tuple[str, ...]


_TOLD = {
    name: tuple(
        _Told(value, quality.sentence.format(value), tuple(word for word in value.split() if word in QUALITY_NOUNS))
        for value in quality.values
    )
    for name, quality in QUALITIES.items()
}


class _Stock(NamedTuple):
    """What is offered, for how much: options, range of prices, how the page and the description put them."""

    options: dict[str, tuple[str, ...]]
    low: float
    high: float
    tag: str
    listing: str


def _stock(choices: Sequence[Choice], offered: Sequence[tuple[str, ...]], cost: float, rise: float) -> _Stock:
    """`rise` dollars are added from one value to the next of the first option whose values differ in price."""
    options = {choice.name: values for choice, values in zip(choices, offered, strict=True)}
    priced = next((choice.name for choice in choices if choice.priced), None)
    if not rise or priced is None or len(options[priced]) < 2:
        return _Stock(options, cost, cost, f"${cost:.2f}", "")
    prices = [cost + rise * nth for nth in range(len(options[priced]))]
    pairs = ", ".join([f"{value} ${price:.2f}" for value, price in zip(options[priced], prices, strict=True)])
    tag = f"${prices[0]:.2f} to ${prices[-1]:.2f}"
    return _Stock(options, prices[0], prices[-1], tag, f" Prices by {priced}: {pairs}.")


@lru_cache(maxsize=8)
def _opinions(count: int) -> tuple[tuple[str, tuple[Review, ...]], ...]:
    """Every rating with its reviews that `count` customers can leave."""
    found = []
    for written in itertools.product(REVIEWS, repeat=count):
        rating = f"{sum(score for score, _, _ in written) / count:.1f}" if count else "N.A."
        found.append((rating, tuple(Review(title, str(score), body) for score, title, body in written)))
    return tuple(found)


def _shuffled(draw: Draw, items: Sequence[T]) -> list[T]:
    mixed = list(items)
    for last in range(len(mixed) - 1, 0, -1):
        other = int(draw() * (last + 1))
        mixed[last], mixed[other] = mixed[other], mixed[last]
    return mixed


def pick(draw: Draw, items: Sequence[T]) -> T:
    """One of the items."""
    return items[int(draw() * len(items))]


def _offer(draw: Draw, values: tuple[str, ...]) -> tuple[str, ...]:
    """Three to five of an option's values (all of them where there are three), in their order."""
    if len(values) <= 4:
        return values
    count = 3 + int(draw() * 3)
    start = int(draw() * len(values))
    stride = 1 if len(values) <= 8 else 3
    chosen = {(start + stride * n) % len(values) for n in range(count)}
    return tuple(value for at, value in enumerate(values) if at in chosen)


def _turned(base: Sequence[_Told], axes: Sequence[tuple[_Told, ...]], at: int, turn: float) -> list[_Told]:
    """The base with another value of the quality at `at`."""
    others = [told for told in axes[at] if told is not base[at]]
    return [*base[:at], others[int(turn * len(others))], *base[at + 1 :]]


@lru_cache(maxsize=1)
def _generator_digest() -> str:
    """Of the generator's own source, so that an index on disk never outlives the catalogue it was built from."""
    files = (__file__, lexicon.__file__)
    return hashlib.blake2b(b"".join(Path(str(file)).read_bytes() for file in files), digest_size=8).hexdigest()
