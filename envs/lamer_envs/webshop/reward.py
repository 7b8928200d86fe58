"""The score of a purchase (WebShop, arXiv 2207.01206, section 3 and appendix; constants of its published code).

    score = r_type * (matched attributes + matched options + [price <= upper bound]) / (A + O + 1)

What must stay true: it is a pure function of product, goal and chosen options, in [0, 1], and exactly 1.0 when every
part matches and the type does. r_type is 1 if the search queries are equal, or two categories of the paths are shared,
or the title score is above 0.2, else 0.5; then 0.1 if the title score is below 0.1, and 0 if it is 0. The title score
is the number of distinct nouns that both titles share over the number of nouns of the goal's (0.2 if it has none;
a noun said twice counts twice below the line, as in the published code).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lamer_envs.webshop.catalogue import Product
from lamer_envs.webshop.lexicon import LEVEL
from lamer_envs.webshop.words import alike, colour_of


@dataclass(frozen=True, slots=True)
class Score:
    """A score with its parts: `attributes` and `options` pair every asked one with whether it was matched."""

    total: float
    type_score: float
    title_score: float
    same_query: bool
    same_category: bool
    attributes: tuple[tuple[str, bool], ...]
    options: tuple[tuple[str, bool], ...]
    within_price: bool

    def explain(self) -> str:
        """One line a part, for people."""
        why = [f"title {self.title_score:.2f}"]
        why += ["same query"] * self.same_query + ["same categories"] * self.same_category
        lines = [f"type {self.type_score:g} ({', '.join(why)})"]
        lines += [f"{'+' if met else '-'} attribute {text}" for text, met in self.attributes]
        lines += [f"{'+' if met else '-'} option {text}" for text, met in self.options]
        lines.append(f"{'+' if self.within_price else '-'} price")
        met = sum(hit for _, hit in (*self.attributes, *self.options)) + self.within_price
        parts = len(self.attributes) + len(self.options) + 1
        return "\n".join([*lines, f"score {self.type_score:g} * {met}/{parts} = {self.total:.3f}"])


def goal_option_values(goal: Mapping[str, Any]) -> list[str]:
    """The option values a goal asks for; human goals list them, synthetic ones map names to them."""
    options = goal["goal_options"]
    return list(options.values()) if isinstance(options, Mapping) else list(options)


def title_score(mine: Sequence[str], asked: Sequence[str]) -> float:
    return len(set(mine) & set(asked)) / len(asked) if asked else 0.2


def shared_categories(mine: str, asked: str) -> int:
    """How many distinct categories two paths share, in whatever place."""
    return len({part.strip() for part in mine.split(LEVEL)} & {part.strip() for part in asked.split(LEVEL)})


def attribute_met(product: Product, attribute: str) -> bool:
    """Whether a product has an asked attribute: like one of its own, or in its title, bullets or description."""
    if any(alike(own, attribute) for own in product.attributes):
        return True
    text = attribute.lower()
    return (
        text in product.title.lower()
        or text in " ".join(product.bullets).lower()
        or text in product.description.lower()
    )


def option_met(value: str, chosen: Sequence[str]) -> bool:
    """Whether an asked option value is like one of the chosen values, colours normalised."""
    asked = colour_of(value)
    return any(alike(colour_of(own), asked) for own in chosen)


Nouns = Callable[[str, str], Sequence[str]]
"""(title, product id) -> nouns of the title, as `Catalogue.nouns`."""


def score(product: Product, goal: Mapping[str, Any], chosen: Mapping[str, str], nouns: Nouns) -> Score:
    """The score of buying `product` with the options `chosen` (name to value) for `goal`."""
    title = title_score(nouns(product.title, product.asin), nouns(goal["name"], goal["asin"]))
    same_query = product.query == goal["query"]
    same_category = shared_categories(product.path, goal["product_category"]) >= 2
    kind = 1.0 if same_query or same_category or title > 0.2 else 0.5
    if title < 0.1:
        kind = 0.1
    if title == 0:
        kind = 0.0
    attributes = tuple((text, attribute_met(product, text)) for text in goal["attributes"])
    picked = list(chosen.values())
    options = tuple((value, option_met(value, picked)) for value in goal_option_values(goal))
    within = product.price <= goal["price_upper"]
    met = sum(hit for _, hit in attributes) + sum(hit for _, hit in options) + within
    total = kind * (met / (len(attributes) + len(options) + 1))
    return Score(total, kind, title, same_query, same_category, attributes, options, within)
