"""What WebShop shows in other forms: small states, compact pages, histories, pictures."""

from __future__ import annotations

import io
import json
import random
import re
from html.parser import HTMLParser

import pytest
from rich.console import Console

from lamer_envs import EnvParameterError, make
from lamer_envs.webshop.brief import brief
from lamer_envs.webshop.env import Webshop
from lamer_envs.webshop.goals import NO_LIMIT
from lamer_envs.webshop.pages import PER_PAGE, SUB_PAGES
from webshop_data import data, row, scarf, values


def test_states_are_small_and_hold_nothing_of_the_catalogue(big: Webshop) -> None:
    rng = random.Random(3)
    for seed in range(30):
        state = big.reset(seed)
        for _ in range(12):
            if state["page"] == "done":
                break
            step = big.step(state, big.weak(state, rng))
            assert json.loads(json.dumps(step.state)) == step.state
            assert len(json.dumps(step.state)) < 600
            state = step.state


LABELS = ("Goal", "Search page", "Results page", "total", "Item", "Rating", "Bought", "score", *SUB_PAGES.values())


@pytest.mark.parametrize("source", ["generated", "data"])
def test_plain_compact_pages_say_nothing_that_the_page_does_not(source: str) -> None:
    """Every word of a plain page, its labels aside, is on the standard page; where there are verdicts this fails."""
    env = make("webshop:300,brief=plain") if source == "generated" else make("webshop", data=data(), brief="plain")
    rng, verdicts = random.Random(1), 0
    other = make("webshop:300") if source == "generated" else None
    for seed in range(25):
        state = env.reset(seed)
        for _ in range(12):
            page, told = env.observe(state), env.compact(state)
            for line in told.split("\n"):
                for label in LABELS:
                    line = line.removeprefix(label)
                words = [word for word in re.split(r"[\s,:]+", line) if word not in ("..", "total", "score", "")]
                assert all(word in page for word in words), (line, page)
            assert len(told) < len(page)
            assert not re.search("too dear|other kind", told)
            verdicts += other is not None and bool(re.search("too dear|other kind", other.compact(state)))
            if state["page"] == "done":
                break
            clicks = [action for action in env.admissible(state) if action.startswith("click")]
            state = env.step(state, rng.choice(clicks) if clicks and rng.random() < 0.5 else env.weak(state, rng)).state
    assert verdicts > 20 or other is None


def test_the_wording_of_compact_pages_is_a_parameter_and_old_specs_mean_what_they_meant() -> None:
    assert make("webshop:1000") == make("webshop", brief="verdicts")
    assert make("webshop:1000").spec == "webshop:1000"
    plain = make("webshop", products=1000, brief="plain", reward="score")
    assert plain.spec == "webshop:1000,reward=score,brief=plain"
    assert make(plain.spec) == plain
    assert make("webshop", **plain.params) == plain
    assert plain != make("webshop:1000,reward=score")
    assert plain.reset(3) == make("webshop:1000").reset(3)
    with pytest.raises(EnvParameterError, match="brief must be verdicts or plain"):
        make("webshop", brief="short")


def test_compact_pages_are_shorter_and_keep_what_decides(big: Webshop) -> None:
    full = short = 0
    for seed in range(20):
        state = big.reset(seed)
        plan = big.solve(state)
        assert plan is not None
        for action in plan:
            text = big.compact(state)
            full, short = full + len(big.observe(state)), short + len(text)
            if action.startswith("click[") and action != "click[buy now]":
                assert action[6:-1] in text.lower()
            state = big.step(state, action).state
    assert short < 0.85 * full


def test_a_brief_says_all_that_the_instruction_says_and_nothing_else(big: Webshop) -> None:
    for position in range(0, len(big.shop.goals), 7):
        goal = big.shop.goals.goal(position)
        found = brief(goal["instruction_text"])
        assert found is not None
        limit = None if goal["price_upper"] == NO_LIMIT else goal["price_upper"]
        assert found == (goal["query"], tuple(goal["attributes"]), tuple(goal["goal_options"]), limit)
    assert brief("i want a long red scarf that is hand knitted") is None


def test_compact_rows_tell_what_fits_the_wish_and_end_with_the_id(big: Webshop) -> None:
    state = big.reset(next(big.seeds("val")))
    goal = big.goal(state)
    wish = brief(goal["instruction_text"])
    assert wish is not None
    shown = big.step(state, f"search[{goal['query']}]").state
    rows = big.compact(shown).splitlines()[2:]
    hits = [big.shop.catalogue.product(at) for at in big.shop.search(goal["query"])[:PER_PAGE]]
    assert len(rows) == len(hits)
    for line, item in zip(rows, hits, strict=True):
        told, asin = line.split(": ")
        assert asin == item.asin
        words = told.split(", ")
        assert {each for each in words if each in wish.qualities} == {
            each for each in goal["attributes"] if each in item.title.lower()
        }
        assert ("too dear" in words) == (float(item.tag.split(" ")[0][1:]) > goal["price_upper"])
        assert ("other kind" in words) == (goal["query"] not in item.title.lower())


def test_compact_pages_cut_long_texts_and_keep_the_options_that_are_asked_for() -> None:
    product = row(
        "B1", "wool " * 100, full_description="warm " * 500,
        customization_options={"Color": values(*(f"shade {n}" for n in range(60)))},
    )  # fmt: skip
    wish = {"instruction": "wool in shade 57", "instruction_attributes": ["wool"], "instruction_options": ["shade 57"]}
    env = make("webshop", data=data(products=[product], human_instructions={"B1": [wish]}))
    state = env.reset(0)
    for action in ("search[wool]", "click[b1]"):
        state = env.step(state, action).state
        assert len(env.compact(state)) < 400
    assert "shade 57, ..52 more" in env.compact(state)
    assert "warm warm" in (told := env.compact(env.step(state, "click[description]").state))
    assert len(told) < 450


def test_outcomes_say_what_a_turn_did(env: Webshop) -> None:
    state, told = scarf(env), []
    for action in (
        "search[scarf]", "click[next >]", "click[< prev]", "click[b00scarf01]", "click[reviews]", "click[< prev]",
        "click[red]", "click[red]", "click[< prev]", "click[back to search]", "search[scarf]", "click[b00scarf01]",
        "click[long]", "click[buy now]",
    ):  # fmt: skip
        step = env.step(state, action)
        told.append(env.outcome(state, action, step))
        state = step.state
    assert told == [
        "found 2", "results page 2", "results page 1", "at B00SCARF01", "read reviews", "at B00SCARF01",
        "chose red", "at B00SCARF01", "results page 1", "at the search page", "found 2", "at B00SCARF01",
        "chose long", "bought B00SCARF01, long: score 0.75",
    ]  # fmt: skip


HOSTILE = (
    """<script>alert(1)</script> "x' & [red]r[/red] [/] C:\\new\\[b] """
    "\x1b[2J\x07 <img src=http://x.example/i onerror=a> \u202e\\"
)


class Tags(HTMLParser):
    """Every tag of a page, its attributes, and the text a reader sees."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("thing", ["<script>", "description", "features", "reviews", "buy now"])
def test_hostile_products_are_only_text_on_every_page_in_browsers_and_terminals(thing: str) -> None:
    product = row(
        "B1",
        HOSTILE,
        small_description=[HOSTILE],
        full_description=HOSTILE,
        customization_options={HOSTILE: values(HOSTILE), "</p>": values("'><b>")},
    )
    wish = {"instruction": HOSTILE, "instruction_attributes": [HOSTILE], "instruction_options": [HOSTILE]}
    review = {"asin": "B1", "average_rating": HOSTILE, "reviews": [dict.fromkeys(("title", "score", "body"), HOSTILE)]}
    env = make("webshop", data={**data(products=[product], human_instructions={"B1": [wish]}), "reviews": [review]})
    state = env.reset(0)
    for wanted in ("search[", "click[b1]", f"click[{thing}"):
        action = next(action for action in env.admissible(state) if action.startswith(wanted))
        state = env.step(state, action).state
        page = Tags(env.render_html(state))
        assert page.tags <= {"section", "p", "button"}
        assert page.attributes == {"class"}
        console = Console(record=True, width=2000, color_system=None, file=io.StringIO())
        console.print(env.render(state), highlight=False)
        for shown in (page.text, console.export_text()):
            assert not {"\x1b", "\x07", "\u202e"} & set(shown)
            assert "[red]r[/red] [/] C:\\new\\[b]" in shown


def test_pictures_escape_what_products_say() -> None:
    from rich.text import Text

    product = row("B1", "[red]bold[/red] <b>scarf</b> \\[x]", customization_options={"Size": values("[1]")})
    wish = {"instruction": "<i>[b]", "instruction_attributes": ["wool"], "instruction_options": []}
    env = make("webshop", data=data(products=[product], human_instructions={"B1": [wish]}))
    assert isinstance(env, Webshop)
    state = env.reset(0)
    for action in ("search[bold]", "click[b1]", "click[[1]]"):
        state = env.step(state, action).state
    shown = Text.from_markup(env.render(state)).plain
    assert "[red]bold[/red] <b>scarf</b>" in shown
    assert "<[1]>" in shown
    assert "chosen: size: [1]" in shown
    page = env.render_html(state)
    assert "&lt;b&gt;scarf&lt;/b&gt;" in page
    assert "<b>" not in page
    assert "<button class='option'>[1]</button>" in page
