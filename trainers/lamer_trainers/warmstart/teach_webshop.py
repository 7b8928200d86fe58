"""WebShop's teacher: it searches, picks the title that says most of what is wanted, chooses options and buys.

What must stay true: it acts on what the policy reads, that is the instruction, the page, the outcomes in this episode's
history and its memory; reflections alone may ask the score what was wrong. A product that memory names as wrong is not
opened again. Qualities that are told only inside a product are not looked for: finding that out is left to learn.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable

from lamer_envs.base import State
from lamer_envs.webshop.catalogue import Product
from lamer_envs.webshop.env import Webshop
from lamer_envs.webshop.goals import Goal
from lamer_envs.webshop.judge import NOT, TAKE, could_win
from lamer_envs.webshop.lexicon import CHOICES, KINDS, QUALITIES
from lamer_envs.webshop.pages import BACK, BUY, NEXT, PREVIOUS, SUB_PAGES, listed_slice
from lamer_envs.webshop.players import click, right_options
from lamer_envs.webshop.search import HITS
from lamer_graph.trial.prompts import Remembered
from lamer_trainers.warmstart.teachers import Attempt, Choice, Teacher
from lamer_trainers.warmstart.tiny import Piece

SKILL = 0.5
CARE = 0.4
"""How often a careless episode does the sensible thing."""
KEPT = 0.5
"""How often each wanted quality enters the search."""
READING = 0.05
SLIP = 0.02
TRUE, VAGUE = 0.5, 0.25
"""Shares of reflections that say truly what was wrong, and that say nothing of use; the others reject any product."""
VAGUE_REMARKS = {
    "read more first": "I should read more before I buy.",
    "search for other words": "I should search for other words.",
    "mind the price": "I should mind the price.",
}
"""Notes of no use, and how they are told."""
EVERY_VALUE = tuple(dict.fromkeys(value for choice in CHOICES.values() for value in choice.values))
"""Of all options; those that a page has not are forbidden there, so that values are read and not guessed."""
MOST_NAMED = 3
IDS = 2_000
"""Products, of the catalogue's first, whose ids are one token each; a larger shop's others are read byte by byte."""
DEAREST = 1_000
"""Up to which limit in dollars, in steps of ten, a price is one token."""
LEADING = {"search[": "kind", "not ": "product", "take ": "product", " with ": "option"}
"""Tokens of answers and what comes after them: their embeddings start alike, so that the right sort is likely early."""
SCORES = (": score ", " score ")
WORDS = ("]", "Goal ", "\nSearch page", "\nResults", "\nItem ", ": ", "Bought ", "bought ", "at ", "chose ",
         "at the search page", "other kind", "too dear", "..", "nothing", " not ", " take ")  # fmt: skip
"""Fixed parts of pages, outcomes, actions and remarks. Names of things have no separator in their tokens, so that each
is the same token wherever it stands."""
BOUGHT = re.compile(r"bought (B[0-9A-Z]{9})[^;\n]*: score (0\.[0-9]+)")


class WebshopTeacher(Teacher):
    """Teacher of a generated shop's customers; it also shops in catalogues of data, whose words are read in bytes."""

    env: Webshop
    skill = SKILL

    def pieces(self) -> list[Piece]:
        catalogue = self.env.shop.catalogue
        found = [Piece(catalogue.product(at).asin, ("product",)) for at in range(min(len(catalogue), IDS))]
        found += [Piece(kind.phrase, ("kind",)) for kind in KINDS]
        found += [Piece(value, ("quality",)) for quality in QUALITIES.values() for value in quality.values]
        found += [Piece(value, ("option",)) for value in EVERY_VALUE]
        found += [Piece(f"\n{name}: ") for name in dict.fromkeys(choice.name for choice in CHOICES.values())]
        found += [Piece(button.lower()) for button in (*SUB_PAGES.values(), BUY, BACK, NEXT, PREVIOUS)]
        found += [
            piece for page, title in SUB_PAGES.items() for piece in (Piece(f"read {page}"), Piece(f"\n{title} of "))
        ]
        found += [Piece(f" {page}/{pages}") for page in range(1, 7) for pages in range(1, 6)]
        found += [Piece(f"found {count}") for count in range(HITS + 1)]
        found += [Piece(f"results page {page}") for page in range(1, 10)]
        found += [Piece(f"..{count} more") for count in range(1, 20)]
        found += [Piece(f"${limit}") for limit in range(10, DEAREST, 10)]
        found += [Piece(f"{before}{part / 100:.2f}", ("score",)) for part in range(101) for before in SCORES]
        found += [Piece(text, (what, what)) for text, what in LEADING.items()]
        found += [Piece("click[", ("product", "option", "click", "click"))]
        return [*found, *map(Piece, (*WORDS, *VAGUE_REMARKS))]

    def sentence(self, note: str) -> str:
        if note in VAGUE_REMARKS:
            return VAGUE_REMARKS[note]
        if note.startswith("not "):
            return f"That was the wrong product. Do not buy {note.removeprefix('not ')} again."
        return f"The product was right. T{note[1:]}."

    # -- play ---------------------------------------------------------------------------------------------------------

    def choose(self, attempt: Attempt, rng: random.Random) -> Choice:
        state, careless = attempt.state, not attempt.skilled and rng.random() >= CARE
        page, goal = state["page"], self.env.goal(state)
        if page == "search":
            return Choice(self._query(goal, rng))
        if page == "results":
            return self._open(attempt, goal, careless, rng)
        if page != "item":
            return Choice(click(PREVIOUS))
        item = self._product(state["product"])
        named = wrong_products(record.text for record in attempt.memory)
        if item.asin in named:
            return Choice(click(PREVIOUS), (click(BUY),))
        if rng.random() < READING:
            return Choice(click(rng.choice(list(SUB_PAGES.values()))))
        missing = self._missing(state, item, goal)
        offered = {value for values in item.options.values() for value in values}
        absent = tuple(click(value) for value in EVERY_VALUE if value not in offered)
        return Choice(click(missing[0]) if missing and not careless else click(BUY), absent)

    def slip(self, attempt: Attempt, rng: random.Random) -> str | None:
        if rng.random() >= SLIP:
            return None
        return rng.choice([action for action in self.env.admissible(attempt.state) if action != click(BUY)])

    def _query(self, goal: Goal, rng: random.Random) -> str:
        words = [quality for quality in goal["attributes"] if rng.random() < KEPT]
        return f"search[{' '.join([goal['query'], *words])}]"

    def _open(self, attempt: Attempt, goal: Goal, careless: bool, rng: random.Random) -> Choice:
        """Open the listed product that fits best, none that memory or this episode's reading turned down."""
        listed = self._listed(attempt.state)
        texts = [record.text for record in attempt.memory]
        named = wrong_products(texts)
        shown = {item.asin for item in listed}
        hits = [self.env.shop.catalogue.product(at).asin for at in self.env.shop.search(attempt.state["query"])]
        forbidden = tuple(f"click[{asin}]" for asin in hits if asin in named or asin not in shown)
        free = [item for item in listed if item.asin not in named]
        if not free:
            return Choice(click(NEXT) if listed else click(BACK), forbidden)
        praised = [item for item in free if item.asin in _praised(texts)]
        if praised:
            return Choice(_open(praised[0]), forbidden)
        if careless:  # the first, not any: what was drawn freely could not be read off the page
            return Choice(_open(free[0]), forbidden)
        return Choice(_open(max(free, key=lambda item: _fit(item, goal))), forbidden)

    def _listed(self, state: State) -> list[Product]:
        hits = self.env.shop.search(state["query"])
        return [self.env.shop.catalogue.product(at) for at in hits[listed_slice(state["number"])]]

    def _product(self, asin: str) -> Product:
        catalogue = self.env.shop.catalogue
        at = catalogue.find(asin)
        assert at is not None  # states name products of the catalogue
        return catalogue.product(at)

    def _missing(self, state: State, item: Product, goal: Goal) -> list[str]:
        """Values that the goal asks for and that are not chosen yet, in the order of the page."""
        return [value for name, value in right_options(item, goal).items() if state["options"].get(name) != value]

    # -- reflections --------------------------------------------------------------------------------------------------

    def remark(self, attempt: Attempt, rng: random.Random) -> str:
        draw = rng.random()
        if not self.instructive(attempt) or draw < VAGUE:
            return rng.choice(list(VAGUE_REMARKS))
        bought = attempt.state["product"]
        if draw < VAGUE + TRUE:
            if not self._could_win(attempt, bought):
                return f"not {bought}"
            chosen = right_options(self._product(bought), self.env.goal(attempt.state)).values()
            return f"take {bought} with {', '.join(chosen)}"
        hits = self.env.shop.search(self.env.goal(attempt.state)["query"])
        others = [self.env.shop.catalogue.product(at).asin for at in hits]
        return f"not {rng.choice([asin for asin in others if asin != bought] or [bought])}"

    def instructive(self, attempt: Attempt) -> bool:
        return bool(attempt.state["page"] == "done")

    def _could_win(self, attempt: Attempt, asin: str) -> bool:
        return could_win(self._product(asin), self.env.goal(attempt.state), self.env.shop.catalogue.nouns)

    def drill(self, state: State, rng: random.Random) -> tuple[list[Remembered], int]:
        """One to three products named as wrong, most of them on this page, in notes or as bought in vain."""
        near = [item.asin for item in self._listed(state)] if state["page"] == "results" else []
        near += [state["product"]] if state["page"] == "item" else []
        hits = self.env.shop.search(self.env.goal(state)["query"])
        far = [self.env.shop.catalogue.product(at).asin for at in hits[:20]]
        named = rng.sample(near, min(len(near), rng.randint(1, MOST_NAMED)))
        named = named or rng.sample(far, min(len(far), rng.randint(1, MOST_NAMED)))
        episodes = rng.randint(1, self.prompts.max_episodes - 1)
        memory: list[Remembered] = []
        for episode in range(1, episodes + 1):
            share = named[episode - 1 :: episodes]
            if share and self.compact and rng.random() < 0.4:
                asin = share.pop()
                total = rng.choice((0.25, 0.33, 0.5, 0.6, 0.67, 0.75, 0.8))
                text = f"found {len(hits)}; at {asin}; bought {asin}: score {total:.2f}"
                memory.append(Remembered("trajectory", text, episode))
            memory += [Remembered("reflection", f"not {asin}", episode) for asin in share]
        return memory, episodes + 1


def wrong_products(texts: Iterable[str]) -> set[str]:
    """Products that a memory rejects, or tells of having bought in vain; one it praises is none of them."""
    told = list(texts)
    bought = {asin for text in told for asin, _ in BOUGHT.findall(text)}
    return (bought | {asin for text in told for asin in NOT.findall(text)}) - _praised(told)


def _praised(texts: Iterable[str]) -> set[str]:
    return {asin for text in texts for asin, _ in TAKE.findall(text)}


def _open(item: Product) -> str:
    """The click as the page writes the id; `Env.parse` makes it lower case."""
    return f"click[{item.asin}]"


def _fit(item: Product, goal: Goal) -> tuple[bool, int, bool]:
    """How well a row of the results fits: kind, wanted qualities in the title, price."""
    title = item.title.lower()
    price = re.match(r"\$([0-9.]+)", item.tag)
    affordable = price is None or float(price[1]) <= goal["price_upper"]
    return goal["query"] in title, sum(quality in title for quality in goal["attributes"]), affordable
