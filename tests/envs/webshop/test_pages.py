"""The pages of WebShop: what each says, what can be clicked on it, and what a click does."""

from __future__ import annotations

import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamer_envs import MAX_ACTION_CHARS, make
from lamer_envs.webshop.env import Webshop
from webshop_data import clicks, data, play, row, scarf, values

# -- the pages ------------------------------------------------------------------------------------------------------


def test_the_search_page_shows_the_instruction_and_offers_a_search(env: Webshop) -> None:
    state = scarf(env)
    text = env.goal(state)["instruction_text"]
    assert text.startswith("i want a long red scarf that is hand knitted, ")
    assert env.observe(state) == f"WebShop [SEP] Instruction: [SEP] {text} [SEP] Search"
    assert clicks(env, state) == []
    assert [action.partition("[")[0] for action in env.admissible(state)] == ["search"]
    assert not env.step(state, "click[search]").valid


def test_results_show_id_title_and_price_of_each_hit(env: Webshop) -> None:
    state = play(env, "search[wool scarf]")
    parts = env.observe(state).split(" [SEP] ")
    assert parts[:2] == ["Instruction:", env.goal(state)["instruction_text"]]
    assert parts[2:5] == ["Back to Search", "Page 1 (Total results: 2)", "Next >"]
    rows = [parts[at : at + 3] for at in range(5, len(parts), 3)]
    assert sorted(rows) == [
        ["B00SCARF01", "Hebrides wool scarf with fringe", "$23.5"],
        ["B00SCARF02", "Skye wool scarf", "$1010.25"],
    ]
    assert clicks(env, state)[:2] == ["click[back to search]", "click[next >]"]
    assert sorted(clicks(env, state)[2:]) == ["click[b00scarf01]", "click[b00scarf02]"]


def test_results_come_ten_a_page_and_fifty_at_most(big: Webshop) -> None:
    state = play(big, "search[black white navy olive teal]", start=big.reset(0))
    seen: list[str] = []
    for page in range(1, 6):
        parts = big.observe(state).split(" [SEP] ")
        assert f"Page {page} (Total results: 50)" in parts
        assert ("< Prev" in parts) == (page > 1)
        assert "Next >" in parts
        products = [action for action in clicks(big, state) if action.startswith("click[b") and "back" not in action]
        assert len(products) == 10
        seen += products
        state = play(big, "click[next >]", start=state)
    assert len(set(seen)) == 50


def test_next_past_the_end_is_an_empty_page_and_leads_back(env: Webshop) -> None:
    state = play(env, "search[scarf]", "click[next >]", "click[next >]")
    assert env.observe(state).endswith("Back to Search [SEP] Page 3 (Total results: 2) [SEP] < Prev [SEP] Next >")
    assert clicks(env, state) == ["click[back to search]", "click[< prev]", "click[next >]"]
    state = play(env, "click[< prev]", "click[< prev]", start=state)
    assert state == play(env, "search[scarf]")


def test_a_search_without_hits_has_an_empty_page(env: Webshop) -> None:
    state = play(env, "search[zzzzz]")
    assert "Page 1 (Total results: 0)" in env.observe(state)
    assert clicks(env, state) == ["click[back to search]", "click[next >]"]


def test_an_item_shows_options_by_name_title_price_rating_and_buttons(env: Webshop) -> None:
    state = play(env, "search[scarf]", "click[b00scarf01]")
    parts = env.observe(state).split(" [SEP] ")
    assert parts[2:] == [
        "Back to Search", "< Prev", "color", "navy | white", "red", "size", "long", "short",
        "Hebrides wool scarf with fringe", "Price: $23.5", "Rating: 4.5", "Description", "Features", "Reviews",
        "Buy Now",
    ]  # fmt: skip
    assert clicks(env, state) == [
        "click[back to search]", "click[< prev]", "click[navy | white]", "click[red]", "click[long]", "click[short]",
        "click[description]", "click[features]", "click[reviews]", "click[buy now]",
    ]  # fmt: skip


def test_previous_on_an_item_returns_to_the_same_page_of_results(big: Webshop) -> None:
    listing = play(big, "search[black]", "click[next >]", start=big.reset(1))
    item = play(big, clicks(big, listing)[3], start=listing)
    assert play(big, "click[< prev]", start=item) == listing


@pytest.mark.parametrize(
    ("button", "told"),
    [
        ("description", "Keeps the neck warm."),
        ("features", "Knitted by hand. [SEP] Comes in a Linen bag."),
        ("reviews", '"Warm" 5.0 out of 5 stars of 5: Very.'),
    ],
)
def test_a_sub_page_tells_its_text_and_leads_back_to_the_item(env: Webshop, button: str, told: str) -> None:
    item = play(env, "search[scarf]", "click[b00scarf01]", "click[red]")
    state = play(env, f"click[{button}]", start=item)
    assert env.observe(state).endswith(f"Back to Search [SEP] < Prev [SEP] {told}")
    assert clicks(env, state) == ["click[back to search]", "click[< prev]"]
    assert play(env, "click[< prev]", start=state) == item


def test_products_without_texts_say_so(env: Webshop) -> None:
    item = play(env, "search[mystery gift]", "click[b00free001]")
    described = env.observe(play(env, "click[reviews]", start=item))
    assert described.endswith("No reviews yet.")
    skye = play(env, "search[skye]", "click[b00scarf02]", "click[description]")
    assert env.observe(skye).endswith("No description given.")


def test_chosen_options_survive_sub_pages_and_are_not_shown(env: Webshop) -> None:
    bare = play(env, "search[scarf]", "click[b00scarf01]")
    chosen = play(env, "click[red]", "click[features]", "click[< prev]", "click[long]", start=bare)
    assert chosen["options"] == {"color": "red", "size": "long"}
    assert env.observe(chosen) == env.observe(bare)
    assert env.compact(chosen) == env.compact(bare)


def test_choosing_again_overwrites(env: Webshop) -> None:
    state = play(env, "search[scarf]", "click[b00scarf01]", "click[red]", "click[navy | white]")
    assert state["options"] == {"color": "navy | white"}


@pytest.mark.parametrize(
    "leave",
    [
        ["click[< prev]", "click[b00scarf01]"],
        ["search[scarf]", "click[b00scarf01]"],
        ["click[description]", "search[scarf]", "click[b00scarf01]"],
        ["click[back to search]", "search[scarf]", "click[b00scarf01]"],
    ],
)
def test_leaving_the_item_clears_the_options(env: Webshop, leave: list[str]) -> None:
    chosen = play(env, "search[scarf]", "click[b00scarf01]", "click[red]")
    assert play(env, *leave, start=chosen)["options"] == {}


def test_back_to_search_starts_over_with_the_same_goal(env: Webshop) -> None:
    for actions in (["search[scarf]"], ["search[scarf]", "click[b00scarf01]", "click[red]", "click[reviews]"]):
        assert play(env, *actions, "click[back to search]") == scarf(env)


def test_search_works_on_any_page(env: Webshop) -> None:
    pages = [[], ["search[hose]"], ["search[scarf]", "click[b00scarf01]"]]
    pages += [[*pages[2], f"click[{name}]"] for name in ("description", "features", "reviews")]
    for actions in pages:
        assert play(env, *actions, "search[gift]") == play(env, "search[gift]")


def test_buying_ends_the_episode(env: Webshop) -> None:
    state = play(env, "search[scarf]", "click[b00scarf01]", "click[red]", "click[long]", "click[buy now]")
    assert env.observe(state).startswith("Thank you for shopping with us! [SEP] Purchased [SEP] B00SCARF01")
    assert env.observe(state).endswith("Your score (0 to 1): 1.00")
    assert env.admissible(state) == []
    for action in ("search[scarf]", "click[buy now]", "click[back to search]"):
        again = env.step(state, action)
        assert (again.valid, again.done, again.success, again.reward) == (False, True, True, 0.0)
        assert again.state == state


def test_an_option_value_written_like_a_button_is_the_option() -> None:
    product = row("B1", "Odd scarf", customization_options={"Style": values("Reviews", "Plain")})
    wish = {"instruction": "odd", "instruction_attributes": ["wool"], "instruction_options": ["plain"]}
    env = make("webshop", data=data(products=[product], human_instructions={"B1": [wish]}))
    state = env.reset(0)
    for action in ("search[odd]", "click[b1]", "click[reviews]"):
        state = env.step(state, action).state
    assert (state["page"], state["options"]) == ("item", {"style": "reviews"})
    assert env.admissible(state).count("click[reviews]") == 1


def test_of_two_options_with_the_same_value_a_click_sets_the_last() -> None:
    product = row("B1", "Odd scarf", customization_options={"Inside": values("Red"), "Outside": values("Red", "Blue")})
    wish = {"instruction": "odd", "instruction_attributes": ["odd"], "instruction_options": ["red"]}
    env = make("webshop", data=data(products=[product], human_instructions={"B1": [wish]}))
    state = env.reset(0)
    for action in ("search[odd]", "click[b1]", "click[red]"):
        state = env.step(state, action).state
    assert state["options"] == {"outside": "red"}
    plan = env.solve(env.reset(0))
    assert plan is not None
    assert plan[-2:] == ["click[red]", "click[buy now]"]


# -- actions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("search[Wool  Scarf]", "search[wool scarf]"),
        ("  SEARCH [ wool scarf ]\n", "search[wool scarf]"),
        ("Click[ BUY   Now ]", "click[buy now]"),
        ("click[< Prev]", "click[< prev]"),
        ("click[a [b] c]", "click[a [b] c]"),
        ("search[a]b]", "search[a]b]"),
        ("search[]", None),
        ("click[ \t]", None),
        ("search", None),
        ("search wool", None),
        ("find[wool]", None),
        ("click[x] and more", None),
        ("please click[x]", None),
        ("search[wool", None),
        ("", None),
    ],
)
def test_actions_are_read_whatever_their_case_and_spaces(env: Webshop, text: str, action: str | None) -> None:
    assert env.parse(text) == action
    if action is not None:
        assert env.parse(action) == action


@pytest.mark.parametrize("action", ["CLICK[ Navy  |  WHITE ]", "Click[ buy now ]", " click[ Description ]\n"])
def test_clicks_of_odd_case_and_spaces_are_played(env: Webshop, action: str) -> None:
    item = play(env, "search[scarf]", "click[B00Scarf01]")
    assert env.step(item, action).valid


@pytest.mark.parametrize(
    "action",
    ["", "buy", "search[]", "click[]", "click[green]", "click[b00range01]", "click[next >]", "click[search]", "[red]"],
)
def test_malformed_and_unlisted_actions_change_nothing(env: Webshop, action: str) -> None:
    item = play(env, "search[scarf]", "click[b00scarf01]", "click[red]")
    step = env.step(item, action)
    assert (step.valid, step.reward, step.done, step.success) == (False, 0.0, False, False)
    assert step.state == item
    assert step.observation == env.observe(item)
    assert env.outcome(item, action, step) == "invalid"


@pytest.mark.parametrize(
    "query",
    [
        '"wool scarf"', "wool AND scarf", "wool OR", "+wool -scarf", "title:wool", "text:*", "wool~2", "wool^9",
        "(wool", "[wool TO scarf]", "wo*l", "*", "\\", "'", '"', "NOT", "\x00", "🧣", "wool écharpe", "\ufb01ne wool",
        "\u202ewool", "wool\ud800", "\uff57\uff4f\uff4f\uff4c",
    ],
)  # fmt: skip
def test_queries_are_words_and_never_query_syntax(env: Webshop, query: str) -> None:
    step = env.step(scarf(env), f"search[{query}]")
    assert step.valid
    json.dumps(step.state).encode()
    step.observation.encode()
    if "wool" in query.casefold() or "\uff57" in query:
        assert "B00SCARF01" in step.observation


def test_a_query_of_ten_thousand_characters_is_searched_by_its_beginning(env: Webshop) -> None:
    step = env.step(scarf(env), f"search[hebrides {'wool ' * 2000}]")
    assert step.valid
    assert len(step.state["query"]) <= MAX_ACTION_CHARS
    assert "B00SCARF01" in step.observation
    assert not env.step(scarf(env), "search[" + "wool " * 2000).valid
    assert not env.step(step.state, f"click[b00scarf01{' ' * 10000}]").valid
    one = env.step(scarf(env), f"search[{'x' * 10000}]")
    assert one.valid
    assert "(Total results: 0)" in one.observation


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=700), st.sampled_from(["{}", "search[{}]", "click[{}]"]))
def test_any_text_is_an_action_or_an_invalid_turn(text: str, form: str) -> None:
    env = make("webshop", data=data())
    state = env.reset(0)
    before = copy.deepcopy(state)
    action = form.replace("{}", text)
    step = env.step(state, action)
    assert state == before
    parsed = env.parse(action)
    if parsed is None:
        assert not step.valid
    else:
        assert env.parse(parsed) == parsed
        assert env.step(state, parsed) == step
    assert json.loads(json.dumps(step.state)) == step.state
