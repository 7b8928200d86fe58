"""Products of a WebShop: the record that every page is drawn from, and the catalogue that is generated.

What must stay true: product i of a generated catalogue is a pure function of (catalogue seed, i), the same in every
process and whatever the size of the catalogue. So nothing is stored: a shop of 100,000 products is a formula and a
cache. Products come in families of five that differ in one thing each (a quality in the title, a quality told only
inside, an option that is not offered, the price), which are the confusable near-misses of one another.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol, TypeVar

from lamer_envs import webshop_lexicon
from lamer_envs.webshop_lexicon import (
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
    Kind,
)
from lamer_envs.webshop_words import plain_nouns

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
        number = 10 + int(draw() * 80)
        step = 1 + int(draw() * 9)
        # The order decides which two qualities are in the title; the last one is told in the description only.
        axes = list(kind.qualities)
        for last in range(len(axes) - 1, 0, -1):
            other = int(draw() * (last + 1))
            axes[last], axes[other] = axes[other], axes[last]
        base = [int(draw() * len(QUALITIES[axis].values)) for axis in axes]
        offered = [_offer(draw, CHOICES[name].values) for name in kind.choices]
        low, high = kind.price
        price = int(low + draw() * (high - low)) + pick(draw, (0.0, 0.49, 0.5, 0.95, 0.99))
        rise = 0.0 if draw() < 0.5 else (1 + int(draw() * 4)) * 0.75
        order = [0, 1, 2, 3, 4]
        for last in range(4, 0, -1):
            other = int(draw() * (last + 1))
            order[last], order[other] = order[other], order[last]
        shown, inside = int(draw() * 2), 2 + int(draw() * (len(axes) - 2))
        turn = draw()
        members = []
        for place, member in enumerate(order):
            vector, offers, cost = base, offered, price
            if member == 1:
                vector = _turned(base, axes, shown, turn)
            elif member == 2:
                vector = _turned(base, axes, inside, turn)
            elif member == 3:
                gap = int(turn * len(offered[0]))
                offers = [offered[0][:gap] + offered[0][gap + 1 :], *offered[1:]]
            elif member == 4:
                cost = price + 50 + int(turn * 20)  # above every upper bound that a goal on the base can have
            name = f"{model} {number + place * step}"
            at = family * FAMILY + place
            members.append(self._member(at, kind, brand, name, axes, vector, offers, cost, rise, rng))
        return tuple(members)

    def _member(
        self, at: int, kind: Kind, brand: str, model: str, axes: list[str], vector: Sequence[int],
        offers: Sequence[tuple[str, ...]], cost: float, rise: float, rng: random.Random,
    ) -> Product:  # fmt: skip
        draw = rng.random
        values = [QUALITIES[axis].values[at_value] for axis, at_value in zip(axes, vector, strict=True)]
        told = [QUALITIES[axis].sentence.format(value) for axis, value in zip(axes, values, strict=True)]
        style = int(draw() * 3)
        if style == 0:
            title = f"{brand} {model} {kind.phrase}, {values[0]}, {values[1]}"
        elif style == 1:
            title = f"{brand} {kind.phrase} {model} - {values[1]} and {values[0]}"
        else:
            title = f"{values[0]} {kind.phrase} by {brand}, {model}, {values[1]}"
        tail = pick(draw, BULLETS).format(brand=brand, department=kind.department)
        bullets = (*told[:-1], tail)
        names = [CHOICES[name] for name in kind.choices]
        price, tag, listing = cost, f"${cost:.2f}", ""
        priced = next((n for n, choice in enumerate(names) if choice.priced), None)
        if rise and priced is not None and len(offers[priced]) > 1:
            prices = [cost + rise * place for place in range(len(offers[priced]))]
            price = round(prices[0] + draw() * (prices[-1] - prices[0]), 2)
            tag = f"${prices[0]:.2f} to ${prices[-1]:.2f}"
            pairs = ", ".join(f"{value} ${each:.2f}" for value, each in zip(offers[priced], prices, strict=True))
            listing = f" Prices by {names[priced].name}: {pairs}."
        opening = pick(draw, OPENINGS).format(brand=brand, model=model, thing=kind.thing)
        description = f"{opening} {told[-1]}{listing} {pick(draw, CLOSINGS)}"
        reviews = [REVIEWS[int(draw() * len(REVIEWS))] for _ in range(int(draw() * 4))]
        rating = f"{sum(score for score, _, _ in reviews) / len(reviews):.1f}" if reviews else "N.A."
        heard = (brand.lower(), model.split()[0].lower(), *kind.nouns)
        nouns = (*heard, *(w for value in values[:2] for w in value.split() if w in QUALITY_NOUNS))
        return Product(
            asin=self._asin(at),
            title=title[0].upper() + title[1:],
            category=kind.department,
            query=kind.phrase,
            path=kind.path,
            bullets=bullets,
            description=description,
            attributes=tuple(values),
            options={choice.name: offer for choice, offer in zip(names, offers, strict=True)},
            price=price,
            tag=tag,
            rating=rating,
            reviews=tuple(Review(title, str(score), body) for score, title, body in reviews),
            nouns=nouns,
        )


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


def _turned(vector: list[int], axes: list[str], at: int, turn: float) -> list[int]:
    """The vector with another value of quality `at`."""
    count = len(QUALITIES[axes[at]].values)
    changed = list(vector)
    changed[at] = (vector[at] + 1 + int(turn * (count - 1))) % count
    return changed


@lru_cache(maxsize=1)
def _generator_digest() -> str:
    """Of the generator's own source, so that an index on disk never outlives the catalogue it was built from."""
    files = (__file__, webshop_lexicon.__file__)
    return hashlib.blake2b(b"".join(Path(str(file)).read_bytes() for file in files), digest_size=8).hexdigest()
