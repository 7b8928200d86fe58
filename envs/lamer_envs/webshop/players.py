"""Scripted customers of a WebShop: an expert that knows the catalogue and a weak one that knows what it sees.

What must stay true: the expert's plan, played from its state, buys for a score of exactly 1.0, or there is no plan; it
is checked with the score itself before it is handed out. The weak player reads pages and remembers its own clicks.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from lamer_envs.base import State
from lamer_envs.webshop.catalogue import Catalogue, Product
from lamer_envs.webshop.pages import BACK, BUY, NEXT, PER_PAGE, PREVIOUS, SUB_PAGES, View, key_of, links
from lamer_envs.webshop.reward import goal_option_values, option_met, score
from lamer_envs.webshop.words import keywords

Search = Callable[[str], Sequence[int]]


def click(text: str) -> str:
    return f"click[{key_of(text)}]"


def plan(
    state: State, goal: Mapping[str, Any], catalogue: Catalogue, search: Search, parse: Callable[[str], str | None]
) -> list[str] | None:
    """The shortest found purchase that scores 1.0: of the goal's own product, else of one that the instruction or the
    product's name finds. None if none of them scores 1.0 or can be reached."""
    own = catalogue.find(goal["asin"])
    queries = [str(goal["name"]), f"{goal['name']} {' '.join(goal['attributes'])}", str(goal["instruction_text"])]
    asked = [query for query in (parse(f"search[{text}]") for text in queries) if query is not None]
    found = (at for query in asked for at in search(query[7:-1]))
    for at in dict.fromkeys([own, *found] if own is not None else found):
        item = catalogue.product(at)
        chosen = right_options(item, goal)
        if score(item, goal, chosen, catalogue.nouns).total < 1.0:
            continue
        route = _route(state, item, at, [*asked, *_named(item, parse)], search)
        if route is not None:
            kept = state["options"] if state["product"] == item.asin else {}
            picks = [click(value) for name, value in chosen.items() if kept.get(name) != value]
            return [*route, *picks, click(BUY)]
    return None


def _named(item: Product, parse: Callable[[str], str | None]) -> list[str]:
    query = parse(f"search[{item.title}]")
    return [] if query is None else [query]


def right_options(item: Product, goal: Mapping[str, Any]) -> dict[str, str]:
    """For every option of a product the value that the goal asks for, options it does not speak of left out."""
    asked = goal["goal_options"]
    named = dict(asked) if isinstance(asked, Mapping) else {}
    wanted = goal_option_values(goal)
    shown = _clickable(item)
    chosen: dict[str, str] = {}
    for name, values in item.options.items():
        first = [named[name]] if name in named else []
        for value in [*first, *wanted]:
            exact = [own for own in values if own == value]
            fitting = exact or [own for own in values if option_met(value, [own])]
            usable = [own for own in fitting if shown.get(key_of(own)) == name]
            if usable:
                chosen[name] = usable[0]
                break
    return chosen


def _clickable(item: Product) -> dict[str, str]:
    """Which option a click on a value sets: of two options with a value of the same name, the last."""
    return {key_of(value): name for name, values in item.options.items() for value in values}


def _route(state: State, item: Product, at: int, asked: Iterable[str], search: Search) -> list[str] | None:
    """The fewest found actions from a state to the page of a product."""
    page = state["page"]
    if page == "done":
        return None
    if state["product"] == item.asin:
        return [click(PREVIOUS)] if page in SUB_PAGES else []
    routes: list[list[str]] = []
    if page == "results" and at in (hits := search(state["query"])):
        apart = hits.index(at) // PER_PAGE + 1 - state["number"]
        routes.append([click(NEXT if apart > 0 else PREVIOUS)] * abs(apart) + [click(item.asin)])
    for query in asked:
        hits = search(query[7:-1])
        if at in hits:
            routes.append([query, *[click(NEXT)] * (hits.index(at) // PER_PAGE), click(item.asin)])
    return min(routes, key=len) if routes else None


# -- the weak player ------------------------------------------------------------------------------------------------

WEAK_CARE = 0.65
"""How often the weak player does the sensible thing where it sees one."""


def weak(view: View, rng: random.Random) -> str:
    """The next action of a customer who searches for some of the instruction's words, takes the product whose title
    has most of them, and now and then forgets an option or clicks anything. Raises ValueError after the purchase."""
    state = view.state
    if state["page"] == "done":
        raise ValueError("the episode is over: no action is left")
    words = keywords(view.instruction)
    if state["page"] == "search":
        kept = [word for word in words if rng.random() < WEAK_CARE] or words or ["anything"]
        return f"search[{' '.join(kept)}]"
    options = list(links(view))
    if rng.random() > 0.95:
        return f"click[{rng.choice(options)}]"
    if state["page"] == "results":
        if not view.listed:
            return click(BACK)
        if rng.random() > WEAK_CARE:
            return click(rng.choice(view.listed).asin)
        return click(max(view.listed, key=lambda each: _overlap(each.title, words)).asin)
    if state["page"] != "item" or view.item is None:
        return click(PREVIOUS)
    if rng.random() < 0.1:
        return click(rng.choice(list(SUB_PAGES.values())))
    wish = f" {' '.join(view.instruction.lower().replace(',', ' ').split())} "
    for name, values in view.item.options.items():
        mentioned = [value for value in values if f" {value} " in wish]
        if mentioned and name not in state["options"] and rng.random() < WEAK_CARE:
            return click(mentioned[0])
    return click(BUY)


def _overlap(title: str, words: Sequence[str]) -> int:
    text = title.lower()
    return sum(word in text for word in words)
