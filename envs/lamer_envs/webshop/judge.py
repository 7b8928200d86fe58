"""What a text claims of the product that was bought: that it was the wrong one, or the right one with other options.

What must stay true: a product is wrong where no choice of its options would have scored 1.0, and right otherwise.
"""

from __future__ import annotations

import re

from lamer_envs.webshop.catalogue import Product
from lamer_envs.webshop.goals import Goal
from lamer_envs.webshop.players import right_options
from lamer_envs.webshop.reward import Nouns, score

NOT = re.compile(r"not (?:buy )?(B[0-9A-Z]{9})")
TAKE = re.compile(r"[Tt]ake (B[0-9A-Z]{9}) with ([^;\n]*)")


def could_win(item: Product, goal: Goal, nouns: Nouns) -> bool:
    """Whether the product, with the right options, would have been worth 1.0."""
    return score(item, goal, right_options(item, goal), nouns).total == 1.0


def is_true(text: str, bought: Product, goal: Goal, nouns: Nouns) -> bool:
    """Whether the text says truly of what was `bought` that it was wrong, or with which options it was right."""
    wrong, right = NOT.findall(text), TAKE.findall(text)
    if right:
        asin, values = right[0]
        wanted = set(right_options(bought, goal).values())
        said = set(values.rstrip(".").split(", "))
        return asin == bought.asin and could_win(bought, goal, nouns) and said == wanted
    return wrong == [bought.asin] and not could_win(bought, goal, nouns)
