"""A small shop in WebShop's own data formats, for the tests: as mappings and as files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lamer_envs.webshop.env import Webshop

LEVEL = "\u203a"


def row(asin: str, name: str, **fields: Any) -> dict[str, Any]:
    """A product with every field that the original's files have and the environment reads."""
    return {
        "asin": asin,
        "name": name,
        "category": "fashion",
        "query": "wool scarf",
        "product_category": f"Clothing {LEVEL} Accessories {LEVEL} Scarves",
        "small_description": ["Knitted by hand.", "Comes in a Linen bag."],
        "full_description": "Keeps the neck warm.",
        "pricing": "$23.50",
        "customization_options": {},
        "images": ["https://example.org/a.jpg"],
        "availability_status": "In Stock",
        **fields,
    }


def values(*texts: str) -> list[dict[str, Any]]:
    return [{"value": text, "image": None, "is_selected": False} for text in texts]


PRODUCTS: list[dict[str, Any]] = [
    row(
        "B00SCARF01",
        "Hebrides wool scarf with fringe",
        customization_options={"Color": values("Navy/White", " Red "), "Size": values("Long", "Short")},
    ),
    row(
        "B00SCARF02",
        "Skye wool scarf",
        pricing="$1,010.25",
        full_description=None,
        small_description="One line only.",
        customization_options={"Color": values("Navy"), "Extras": None},
    ),
    row("B00SCARF01", "The same id again"),
    row("nan", "No id"),
    row("B00TOOLONGID", "An id that is too long"),
    row("B00RANGE01", "Garden hose", query="Garden Hose ", product_category="Patio", pricing="$10.00 - $30.00"),
    row("B00FREE001", "Mystery gift", query="gift", product_category="Toys", pricing="", customization_options=None),
]
ATTRIBUTES: dict[str, Any] = {
    "B00SCARF01": {
        "attributes": ["pure wool", "hand knitted"],
        "instruction": "find me a scarf of pure wool",
        "instruction_attributes": ["pure wool"],
    },
    "B00SCARF02": {"attributes": ["pure wool"], "instruction": None, "instruction_attributes": None},
    "B00RANGE01": {
        "attributes": ["leak proof"],
        "instruction": "i want a hose",
        "instruction_attributes": ["leak proof", "pure wool"],
    },
    "B00OTHER01": {"attributes": ["of a product that is not here"]},
}
PEOPLE: dict[str, Any] = {
    "B00SCARF01": [
        {
            "asin": "B00SCARF01",
            "instruction": "i want a long red scarf that is hand knitted.",
            "instruction_attributes": ["hand knitted"],
            "instruction_options": ["red", "long"],
        },
        {
            "asin": "B00SCARF01",
            "instruction": "any scarf",
            "instruction_attributes": [],
            "instruction_options": [],
        },
    ],
    "B00RANGE01": [
        {
            "asin": "B00RANGE01",
            "instruction": "get me a leak proof hose",
            "instruction_attributes": ["leak proof"],
            "instruction_options": [],
        }
    ],
    "B00FREE001": [
        {
            "asin": "B00FREE001",
            "instruction": "surprise me",
            "instruction_attributes": ["pure wool"],
            "instruction_options": [],
        }
    ],
    "B00OTHER01": [
        {"asin": "B00OTHER01", "instruction": "gone", "instruction_attributes": ["x"], "instruction_options": []}
    ],
}
REVIEWS: list[dict[str, Any]] = [
    {
        "asin": "B00SCARF01",
        "average_rating": 4.5,
        "reviews": [{"title": "Warm", "stars": "5.0 out of 5 stars", "review": "Very."}],
    },
    {"asin": "B00SCARF02", "average_rating": 3, "reviews": [{"title": "Dear", "score": 3}]},
]


def data(**parts: Any) -> dict[str, Any]:
    """The shop as mappings, with some parts replaced."""
    return {"products": PRODUCTS, "attributes": ATTRIBUTES, "human_instructions": PEOPLE, "reviews": REVIEWS, **parts}


def write_files(folder: Path, suffix: str = "_1000", indent: int | None = None) -> Path:
    """The shop as the original's files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (
        (f"items_shuffle{suffix}.json", PRODUCTS),
        (f"items_ins_v2{suffix}.json", ATTRIBUTES),
        ("items_human_ins.json", PEOPLE),
        ("reviews.json", REVIEWS),
    ):
        (folder / name).write_text(json.dumps(part, indent=indent), encoding="utf-8")
    return folder


def scarf(env: Webshop) -> dict[str, Any]:
    """The goal of the long red scarf."""
    return next(state for n in range(9) if "red" in env.goal(state := env.load({"goal": n}))["goal_options"])


def play(env: Webshop, *actions: str, start: dict[str, Any] | None = None) -> dict[str, Any]:
    state = scarf(env) if start is None else start
    for action in actions:
        step = env.step(state, action)
        assert step.valid, action
        assert step.observation == env.observe(step.state)
        state = step.state
    return state


def clicks(env: Webshop, state: dict[str, Any]) -> list[str]:
    return [action for action in env.admissible(state) if action.startswith("click[")]
