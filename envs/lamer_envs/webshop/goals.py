"""What a WebShop's customers want: goals, their order and their splits.

What must stay true: the goals of a catalogue and their order are fixed, the same in every process; the order is one
shuffle with WebShop's own seed, so with official data the goals come in the order of the original environment. test is
the first 500, val the next 1,000, train the rest (a tenth and a fifth where there are fewer than 5,000), so no goal is
in two splits. The upper bound of the price is the larger of two draws from the four $10 steps above the product's
price; every draw is seeded by what it is for, never by what was drawn before.
"""

from __future__ import annotations

import json
import math
import random
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import Any, Protocol

from lamer_envs.errors import InstanceError
from lamer_envs.webshop.catalogue import FAMILY, Catalogue, GeneratedCatalogue, Instruction, Product, pick
from lamer_envs.webshop.lexicon import PRICES, WANTS

Goal = dict[str, Any]
"""asin, category, query, name, product_category, instruction_text, attributes, price_upper, goal_options, weight."""

SHUFFLE_SEED = 233
TEST_GOALS, VAL_GOALS = 500, 1000
PER_PRODUCT = 5
"""Goals of one generated product, which differ in what they ask for."""

NO_LIMIT = 1_000_000
"""Upper bound of a goal whose product is too dear for two more $10 steps."""

_STEPS = [10.0 * n for n in range(1, 100)]
_MAX_TEXT = 4000
_EXAMPLE = (
    '{"goal": 3} or {"goal": {"asin": .., "instruction_text": .., "attributes": [..], "goal_options": [..] or {..}, '
    '"price_upper": .., "query": .., "name": .., "product_category": .., "category": ..}}'
)


def upper_bound(price: float, rng: random.Random) -> float:
    """The larger of two different draws from the four $10 steps above a price; NO_LIMIT where two do not remain."""
    first = bisect_right(_STEPS, price)
    steps = _STEPS[first : first + 4]
    if len(steps) < 2:
        return NO_LIMIT
    one, other = int(rng.random() * len(steps)), int(rng.random() * (len(steps) - 1))
    return steps[max(one, other + (other >= one))]


def split_sizes(goals: int) -> dict[str, range]:
    """Positions of each split in the fixed order."""
    test, val = min(TEST_GOALS, goals // 10), min(VAL_GOALS, goals // 5)
    if goals >= 3:
        test, val = max(1, test), max(1, val)
    return {"test": range(test), "val": range(test, test + val), "train": range(test + val, goals)}


class Source(Protocol):
    """Goals before the shuffle."""

    def __len__(self) -> int: ...

    def goal(self, number: int) -> Goal: ...

    def of_product(self, at: int) -> Sequence[int]:
        """The numbers of the goals that are about the product at this position."""
        ...


class Goals:
    """The goals of a catalogue in their fixed order."""

    def __init__(self, source: Source, catalogue: Catalogue) -> None:
        self._source, self._catalogue = source, catalogue
        order = list(range(len(source)))
        random.Random(SHUFFLE_SEED).shuffle(order)
        self._order = array("I", order)
        self.splits = split_sizes(len(order))
        self.goal = lru_cache(maxsize=8192)(self._goal)

    def __len__(self) -> int:
        return len(self._order)

    def _goal(self, position: int) -> Goal:
        """The goal at a position of the order. Shared: not to be changed."""
        return self._source.goal(self._order[position])

    @cached_property
    def _positions(self) -> array[int]:
        positions = array("I", bytes(4 * len(self._order)))
        for position, number in enumerate(self._order):
            positions[number] = position
        return positions

    def find(self, goal: Mapping[str, Any]) -> int | None:
        """The position of this very goal, None for one that is not the catalogue's."""
        at = self._catalogue.find(str(goal["asin"]))
        if at is None:
            return None
        wanted = canonical(goal)
        found = (number for number in self._source.of_product(at) if canonical(self._source.goal(number)) == wanted)
        number = next(found, None)
        return None if number is None else self._positions[number]

    def split_of(self, position: int) -> str:
        return next(name for name, places in self.splits.items() if position in places)


def canonical(goal: Mapping[str, Any]) -> str:
    """Equal text, equal goal; the weight does not count."""
    return json.dumps({key: goal[key] for key in sorted(goal) if key != "weight"}, ensure_ascii=False)


def _filled(item: Product, text: str, attributes: Sequence[str], options: Any, bound: float, weight: float) -> Goal:
    return {
        "asin": item.asin,
        "category": item.category,
        "query": item.query,
        "name": item.title,
        "product_category": item.path,
        "instruction_text": text,
        "attributes": list(attributes),
        "price_upper": bound,
        "goal_options": options,
        "weight": weight,
    }


def _priced(text: str, bound: float, wording: str = PRICES[0]) -> str:
    return text if bound == NO_LIMIT else text + wording.format(bound)


# -- generated catalogues -------------------------------------------------------------------------------------------


class GeneratedGoals:
    """Five wishes for every generated product, worded in turn; options as a list, as people's goals have them."""

    def __init__(self, catalogue: GeneratedCatalogue) -> None:
        self._catalogue = catalogue
        self._wishes = lru_cache(maxsize=4096)(self._draw)

    def __len__(self) -> int:
        return len(self._catalogue) * PER_PRODUCT

    def goal(self, number: int) -> Goal:
        return self._wishes(number // PER_PRODUCT)[number % PER_PRODUCT]

    def of_product(self, at: int) -> Sequence[int]:
        return range(at * PER_PRODUCT, (at + 1) * PER_PRODUCT)

    def _draw(self, at: int) -> tuple[Goal, ...]:
        item, kind = self._catalogue.product(at), self._catalogue.kind(at // FAMILY)
        rng = random.Random(f"webshop goals {self._catalogue.seed} {at}")
        draw = rng.random
        seen: set[tuple[frozenset[str], tuple[str, ...]]] = set()
        goals: list[Goal] = []
        while len(goals) < PER_PRODUCT:  # ends: four qualities alone can be asked for in fourteen ways
            count = 1 + int(draw() * 3)
            asked = sorted(item.attributes, key=lambda _: draw())[:count]
            options = {name: pick(draw, values) for name, values in item.options.items() if draw() < 0.75}
            wish = (frozenset(asked), tuple(options.values()))
            if wish in seen:
                continue
            seen.add(wish)
            bound = upper_bound(item.price, rng)
            said = f"{', '.join(asked[:-1])} and {asked[-1]}" if len(asked) > 1 else asked[0]
            text = pick(draw, WANTS).format(
                thing=kind.thing, phrase=kind.phrase, qualities=said, options=_said(options, draw() < 0.5)
            )
            text = _priced(text, bound, pick(draw, PRICES))
            goals.append(_filled(item, text, asked, list(options.values()), bound, 1))
        return tuple(goals)


def _said(options: Mapping[str, str], bare: bool) -> str:
    """Asked options in words, with their names or (colours and the like) without."""
    parts = [f"in {value}" if bare and name in ("color", "shade") else f"{name} {value}" for name, value in
             options.items()]  # fmt: skip
    return "".join(f", {part}" for part in parts)


# -- goals of data --------------------------------------------------------------------------------------------------


class HumanGoals:
    """One goal for every human instruction that names attributes, in the order of products and instructions."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._entries: list[tuple[int, int]] = []
        self._first = array("I", [0])
        for at in range(len(catalogue)):
            wishes = catalogue.product(at).people
            # The original leaves out the instructions without attributes; leaving them in would move every other goal.
            self._entries += [(at, nth) for nth, wish in enumerate(wishes) if wish.attributes]
            self._first.append(len(self._entries))

    def __len__(self) -> int:
        return len(self._entries)

    def goal(self, number: int) -> Goal:
        at, nth = self._entries[number]
        item = self._catalogue.product(at)
        wish = item.people[nth]
        bound = upper_bound(item.price, random.Random(f"webshop bound {item.asin} {nth}"))
        return _filled(item, _priced(wish.text.strip("."), bound), wish.attributes, list(wish.options), bound, 1)

    def of_product(self, at: int) -> Sequence[int]:
        return range(self._first[at], self._first[at + 1])


class SyntheticGoals:
    """One goal for every combination of a product's options, as a dict; `weight` is the mean of 1 / (goals that ask
    for the attribute) over the goal's attributes."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        counts: list[int] = []
        self._asked: Counter[str] = Counter()
        for at in range(len(catalogue)):
            item = catalogue.product(at)
            wish = _wish(item)
            count = math.prod(len(values) for values in item.options.values()) if wish else 0
            counts.append(count)
            if wish:
                self._asked.update(dict.fromkeys(wish.attributes, count))
        self._first = array("Q", [0, *accumulate(counts)])

    def __len__(self) -> int:
        return self._first[-1]

    def goal(self, number: int) -> Goal:
        at = bisect_right(self._first, number) - 1
        item = self._catalogue.product(at)
        wish = _wish(item)
        assert wish is not None  # a product without one has no goal
        names = sorted(item.options)
        nth = number - self._first[at]
        options: dict[str, str] = {}
        for name in reversed(names):
            nth, place = divmod(nth, len(item.options[name]))
            options[name] = item.options[name][place]
        options = {name: options[name] for name in names}
        bound = upper_bound(item.price, random.Random(f"webshop bound {item.asin}"))
        text = wish.text + "".join(f", {name}: {value}" for name, value in options.items())
        weight = sum(1 / self._asked[attribute] for attribute in wish.attributes) / len(wish.attributes)
        return _filled(item, _priced(text, bound), wish.attributes, options, bound, weight)

    def of_product(self, at: int) -> Sequence[int]:
        return range(self._first[at], self._first[at + 1])


def _wish(item: Product) -> Instruction | None:
    """The synthetic instruction of a product: the data's own, or one made of a generated product's qualities."""
    if item.wish is not None:
        return item.wish if item.wish.attributes else None
    if item.nouns is None:
        return None
    asked = item.attributes[1:3]
    return Instruction(f"i need a {item.query} with {' and '.join(asked)}", asked, ())


# -- goals from outside ---------------------------------------------------------------------------------------------


def read_goal(value: object, catalogue: Catalogue) -> Goal:
    """A goal dict from outside, checked; what it leaves out comes from the product it names.

    Attributes and options may be empty, the price bound may be missing (no limit). Raises InstanceError.
    """
    if not isinstance(value, Mapping):
        raise InstanceError(f"a WebShop goal is a number or a mapping, not {type(value).__name__}; expected {_EXAMPLE}")
    asin = _text(value, "asin", None)
    at = catalogue.find(asin)
    item = None if at is None else catalogue.product(at)
    options = value.get("goal_options", [])
    if isinstance(options, Mapping):
        options = {str(name): option for name, option in options.items()}
    parts: list[object] = list(options.values()) if isinstance(options, dict) else options
    return {
        "asin": item.asin if item else asin,
        "category": _text(value, "category", item.category if item else ""),
        "query": _text(value, "query", item.query if item else None),
        "name": _text(value, "name", item.title if item else None),
        "product_category": _text(value, "product_category", item.path if item else None),
        "instruction_text": _text(value, "instruction_text", None),
        "attributes": _texts("attributes", value.get("attributes", [])),
        "price_upper": _amount("price_upper", value.get("price_upper", NO_LIMIT)),
        "goal_options": dict(zip(options, _texts("goal_options", parts), strict=True))
        if isinstance(options, dict)
        else _texts("goal_options", parts),
        "weight": _amount("weight", value.get("weight", 1)),
    }


def _text(goal: Mapping[str, Any], key: str, default: str | None) -> str:
    value = goal.get(key, default)
    if value is None and default is None:
        why = (
            ""
            if key in ("asin", "instruction_text")
            else "; this catalogue has no product with its asin to take it from"
        )
        raise InstanceError(f"the goal lacks '{key}'{why}; expected {_EXAMPLE}")
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        raise InstanceError(f"the goal's '{key}' must be text of at most {_MAX_TEXT} characters; expected {_EXAMPLE}")
    return value.encode("utf-8", "replace").decode("utf-8")


def _texts(key: str, values: object) -> list[str]:
    if (
        not isinstance(values, list | tuple)
        or len(values) > 100
        or any(not isinstance(value, str) or len(value) > _MAX_TEXT for value in values)
    ):
        raise InstanceError(f"the goal's '{key}' must hold at most 100 texts; expected {_EXAMPLE}")
    return [value.encode("utf-8", "replace").decode("utf-8") for value in values]


def _amount(key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InstanceError(f"the goal's '{key}' must be a number, not {str(value)[:40]}; expected {_EXAMPLE}")
    return value
