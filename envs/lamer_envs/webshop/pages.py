"""The pages of a WebShop: what each one says and what can be clicked on it.

What must stay true: a page is a function of the state's JSON, the catalogue and the search results, and `links` holds
exactly what a click is accepted for. Pages have the structure of the original's text mode, parts in its order, joined
by ` [SEP] `. Options that were chosen are not part of a page: who chose them has to remember it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from rich.markup import escape

from lamer_envs.base import State
from lamer_envs.markup import escaped, shown
from lamer_envs.webshop.brief import Brief, brief
from lamer_envs.webshop.catalogue import Product
from lamer_envs.webshop.search import HITS

PER_PAGE = 10
SEPARATOR = " [SEP] "
SEARCH, BACK, PREVIOUS, NEXT, BUY = "Search", "Back to Search", "< Prev", "Next >", "Buy Now"
SUB_PAGES = {"description": "Description", "features": "Features", "reviews": "Reviews"}
"""Sub-pages of an item by the name they have in states, with their buttons."""

TITLE_CUT, TEXT_CUT, VALUES_CUT = 80, 300, 8
"""What compact pages keep of a title, of a sub-page's text (characters) and of one option's values."""
BRIEF_VALUES_CUT = 3
"""Of one option's values, where the instruction has a brief."""


class Link(NamedTuple):
    """Something that can be clicked: `kind` is button, product or option; `name` is the option's name."""

    kind: str
    value: str
    name: str = ""


class View(NamedTuple):
    """Everything a page is drawn from: `total` hits of the search, those `listed` on this page of the results, and the
    `item` that is looked at."""

    state: State
    instruction: str
    total: int
    listed: Sequence[Product]
    item: Product | None


def key_of(text: str) -> str:
    """How clickable things are compared: lower case, white space collapsed."""
    return " ".join(text.lower().split())


def links(view: View) -> dict[str, Link]:
    """What can be clicked, by its key, in the order of the page. As in the original, an option value that is written
    like a button is the option."""
    page = view.state["page"]
    if page in ("search", "done"):
        return {}
    found = {key_of(BACK): Link("button", BACK)}
    if page == "results":
        if view.state["number"] > 1:
            found[key_of(PREVIOUS)] = Link("button", PREVIOUS)
        found[key_of(NEXT)] = Link("button", NEXT)
        found |= {key_of(item.asin): Link("product", item.asin) for item in view.listed}
        return found
    found[key_of(PREVIOUS)] = Link("button", PREVIOUS)
    if page == "item" and view.item is not None:
        buttons = (*SUB_PAGES.values(), BUY)
        options = {key_of(v): Link("option", v, name) for name, values in view.item.options.items() for v in values}
        found |= options | {key_of(b): Link("button", b) for b in buttons if key_of(b) not in options}
    return found


def parts(view: View) -> list[str]:
    """The texts of a page in their order."""
    state, item = view.state, view.item
    page = state["page"]
    said = ["Instruction:", view.instruction]
    if page == "search":
        return ["WebShop", *said, SEARCH]
    if page == "results":
        number = state["number"]
        texts = [*said, BACK, f"Page {number} (Total results: {view.total})"]
        texts += [PREVIOUS, NEXT] if number > 1 else [NEXT]
        for each in view.listed:
            texts += [each.asin, each.title, each.tag]
        return texts
    assert item is not None  # every other page is about a product
    if page == "done":
        return [
            "Thank you for shopping with us!",
            "Purchased",
            item.asin,
            item.title,
            f"Your score (0 to 1): {state['score']:.2f}",
        ]
    if page == "item":
        texts = [*said, BACK, PREVIOUS]
        for name, values in item.options.items():
            texts += [name, *values]
        return [*texts, item.title, f"Price: {item.tag}", f"Rating: {item.rating}", *SUB_PAGES.values(), BUY]
    return [*said, BACK, PREVIOUS, *sub_page(item, page)]


def sub_page(item: Product, page: str) -> list[str]:
    """What a sub-page tells about a product."""
    if page == "description":
        return [item.description or "No description given."]
    if page == "features":
        return list(item.bullets) or ["No features listed."]
    told = [f'"{each.title}" {each.score} of 5: {each.body}' for each in item.reviews]
    return told or ["No reviews yet."]


def compact(view: View) -> str:
    """The page in few words, with verdicts that the page itself has not. What was cut is marked with `..`.

    Where the instruction has a brief, products are told in its words: which of the wanted qualities the shown text
    has, another kind, a price above the limit; the id comes last, after what is known of it. Of other texts, long
    titles are cut. Of long option lists those values are kept that the instruction speaks of.
    """
    state, item, wish = view.state, view.item, brief(view.instruction)
    page = state["page"]
    goal = f"Goal {wish or view.instruction}\n"
    if page == "search":
        return f"{goal}Search page"
    if page == "results":
        pages = max(1, -(-view.total // PER_PAGE))
        return "\n".join([f"{goal}Results {state['number']}/{pages}", *(_row(each, wish) for each in view.listed)])
    assert item is not None
    if page == "done":
        return f"Bought {item.asin} score {state['score']:.2f}"
    if page == "item":
        text = view.instruction.lower()
        rows = [f"{name}: {', '.join(_values(values, wish, text))}" for name, values in item.options.items()]
        return "\n".join([f"{goal}Item {_row(item, wish)}", *rows])
    told = " ".join(sub_page(item, page))
    said = _cut(told, TEXT_CUT) if wish is None else ", ".join(_found(told, wish)) or "nothing"
    return f"{goal}{SUB_PAGES[page]} of {item.asin}\n{said}"


def plain(view: View) -> str:
    """The page in fewer words, all of them its own: texts, titles and lists of options are cut, marked with `..`."""
    state, item = view.state, view.item
    page = state["page"]
    goal = f"Goal {view.instruction}\n"
    if page == "results":
        rows = (_row(each, None) for each in view.listed)
        return "\n".join([f"{goal}Results page {state['number']}, total {view.total}", *rows])
    if page == "item":
        assert item is not None
        options = [f"{name}: {', '.join(_first(values))}" for name, values in item.options.items()]
        shown = f"{_cut(item.title, TITLE_CUT)}, {item.tag}"  # the page itself does not name the id
        return "\n".join([f"{goal}Item {shown}", f"Rating {item.rating}", *options])
    if page in SUB_PAGES:
        assert item is not None
        return f"{goal}{SUB_PAGES[page]}\n{_cut(' '.join(sub_page(item, page)), TEXT_CUT)}"
    return compact(view) if page == "done" else f"{goal}Search page"  # the end has nothing to cut or to judge


def _first(values: Sequence[str]) -> list[str]:
    return [*values[:VALUES_CUT], *[".."] * (len(values) > VALUES_CUT)]


def _row(item: Product, wish: Brief | None) -> str:
    """A product in one line."""
    if wish is None:
        return f"{_cut(item.title, TITLE_CUT)}, {item.tag}: {item.asin}"
    kind = [] if wish.kind in item.title.lower() else ["other kind"]
    price = re.match(r"\$([0-9.]+)", item.tag)
    dear = ["too dear"] if price and wish.limit is not None and float(price[1]) > wish.limit else []
    return f"{', '.join([*kind, *_found(item.title, wish), *dear]) or '..'}: {item.asin}"


def _found(text: str, wish: Brief) -> list[str]:
    """The wanted qualities that a text speaks of."""
    return [quality for quality in wish.qualities if quality in text.lower()]


def _values(values: Sequence[str], wish: Brief | None, text: str) -> list[str]:
    kept = VALUES_CUT if wish is None else BRIEF_VALUES_CUT
    if len(values) <= kept:
        return list(values)
    asked = [value in text for value in values] if wish is None else [value in wish.options for value in values]
    places = set(sorted(range(len(values)), key=lambda at: (not asked[at], at))[:kept])
    return [*(value for at, value in enumerate(values) if at in places), f"..{len(values) - kept} more"]


def _cut(text: str, size: int) -> str:
    return text if len(text) <= size else text[:size].rsplit(" ", 1)[0] + " .."


# -- for people -----------------------------------------------------------------------------------------------------


def rich_text(view: View) -> str:
    """The page for a terminal, with rich markup, and what the state knows beyond the page: chosen options."""
    lines: list[str] = []
    for link, text in _marked(view):
        safe = escape(shown(text))
        lines.append(f"[cyan]<{safe}>[/]" if link is not None else safe)
    chosen = ", ".join(f"{name}: {value}" for name, value in view.state["options"].items())
    if chosen:
        lines.append(f"[dim]chosen: {escape(shown(chosen))}[/]")
    return "\n".join([f"[bold]{view.state['page']}[/]", *lines])


def html_text(view: View) -> str:
    """The page as a fragment of HTML, all text escaped; a paragraph's class says what it is."""
    rows, before = [], ""
    for link, text in _marked(view):
        safe = escaped(text)
        if link is not None:
            before = link.kind
            rows.append(f"<button class='{link.kind}'>{safe}</button>")
            continue
        before = _kind(view, text, before)
        rows.append(f"<p class='{before}'>{safe}</p>")
    chosen = ", ".join(f"{name}: {value}" for name, value in view.state["options"].items())
    note = f"<p class='chosen'>{escaped(chosen)}</p>" if chosen else ""
    return f"<section class='webshop {view.state['page']}'>{''.join(rows)}{note}</section>"


def _kind(view: View, text: str, before: str) -> str:
    """What a paragraph is: `before` is the class of what stands before it."""
    if text == view.instruction:
        return "wish"
    if view.item is not None:
        if text == view.item.title:
            return "title"
        if text in view.item.options:
            return "name"
    return {"product": "title", "title": "price"}.get(before, "text")


def _marked(view: View) -> list[tuple[Link | None, str]]:
    """Every part of a page with the link it is, None for plain text. Texts of sub-pages are never links."""
    found = links(view)
    told = set(sub_page(view.item, view.state["page"])) if view.item and view.state["page"] in SUB_PAGES else set()
    return [(None if text in told else found.get(key_of(text)), text) for text in parts(view)]


def listed_slice(number: int) -> slice:
    """Which of the hits are on page `number` of the results, from 1."""
    return slice(min(number - 1, HITS) * PER_PAGE, min(number, HITS) * PER_PAGE)
