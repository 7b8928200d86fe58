"""Data in WebShop's own formats: what is read of it, and what is said when it is missing, cut short or malformed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lamer_envs import EnvParameterError, make
from lamer_envs.checker import check_env
from lamer_envs.webshop.catalogue import GeneratedCatalogue, Product, indexed_text
from lamer_envs.webshop.env import Webshop
from webshop_data import ATTRIBUTES, PRODUCTS, data, row, values, write_files


def shop(**params: Any) -> Webshop:
    env = make("webshop", **params)
    assert isinstance(env, Webshop)
    return env


def products(env: Webshop) -> dict[str, Product]:
    catalogue = env.shop.catalogue
    return {item.asin: item for item in (catalogue.product(at) for at in range(len(catalogue)))}


# -- what is read ---------------------------------------------------------------------------------------------------


def test_products_are_read_as_the_original_shows_them() -> None:
    found = products(shop(data=data()))
    assert list(found) == ["B00SCARF01", "B00SCARF02", "B00RANGE01", "B00FREE001"]
    scarf = found["B00SCARF01"]
    assert scarf.options == {"color": ("navy | white", "red"), "size": ("long", "short")}
    assert (scarf.price, scarf.tag, scarf.query) == (23.5, "$23.5", "wool scarf")
    assert (scarf.attributes, scarf.bullets) == (
        ("pure wool", "hand knitted"),
        ("Knitted by hand.", "Comes in a Linen bag."),
    )
    assert found["B00SCARF02"].bullets == ("One line only.",)
    assert found["B00SCARF02"].options == {"color": ("navy",)}
    assert (found["B00SCARF02"].price, found["B00SCARF02"].description) == (1010.25, "")
    assert found["B00RANGE01"].query == "garden hose"
    assert (found["B00FREE001"].price, found["B00FREE001"].options) == (100.0, {})
    assert (found["B00SCARF02"].rating, found["B00FREE001"].rating) == ("3", "N.A.")


def test_of_two_ids_that_differ_in_case_the_first_counts() -> None:
    env = shop(data={"products": [{"asin": "b1", "name": "One"}, {"asin": "B1", "name": "Two"}]})
    assert [(item.asin, item.title) for item in products(env).values()] == [("B1", "One")]


def test_a_price_range_is_drawn_once_and_for_all() -> None:
    first, second = (products(shop(data=data(reviews=reviews)))["B00RANGE01"] for reviews in ([], [{}]))
    assert first.tag == "$10.0 to $30.0"
    assert 10 <= first.price <= 30
    assert first.price == second.price != 10


@pytest.mark.parametrize(
    ("pricing", "price", "tag"),
    [
        ("$5", 5.0, "$5.0"),
        ("$1,299.00", 1299.0, "$1299.0"),
        ("$5.00$5.00", 5.0, "$5.0 to $5.0"),
        ("7.25", 100.0, "$100.0"),
        ("$", 100.0, "$100.0"),
        ("$1.2.3", 100.0, "$100.0"),
        (None, 100.0, "$100.0"),
        (12, 12.0, "$12.0"),
        ([12.5], 12.5, "$12.5"),
        ("price on request", 100.0, "$100.0"),
    ],
)
def test_prices_are_read_from_whatever_is_stated(pricing: Any, price: float, tag: str) -> None:
    item = products(shop(data=data(products=[row("B1", "Scarf", pricing=pricing)])))["B1"]
    assert (item.price, item.tag) == (price, tag)


def test_everything_a_product_says_is_found_by_a_search_in_its_stem() -> None:
    item = row(
        "B1", "Titleword", small_description=["first", "Bulletwords"], full_description="descriptionword",
        customization_options={"Size": values("optionword")},
    )  # fmt: skip
    others = [row(f"C{n}", "Something else") for n in range(5)]
    attributes = {"B1": {"attributes": ["attributeword"]}}
    env = shop(data=data(products=[*others, item], attributes=attributes))
    for word in ("titlewords", "bulletword", "DESCRIPTIONWORD", "optionwords", "attributeword"):
        assert env.shop.search(word) == (5,), word


def test_files_and_mappings_give_the_same_shop(tmp_path: Path) -> None:
    inline = shop(data=data())
    for folder, suffix, indent in (("small", "_1000", None), ("all", "", 2), ("other", "_50", None)):
        env = shop(data=write_files(tmp_path / folder, suffix, indent))
        assert products(env) == products(inline)
        assert [env.instance(env.reset(n)) for n in range(3)] == [inline.instance(inline.reset(n)) for n in range(3)]


def test_of_two_sizes_the_small_files_are_read_unless_more_is_asked_for(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "both", "")
    write_files(folder, "_1000")
    small = [row("B00SMALL01", "small", customization_options=None)]
    (folder / "items_shuffle_1000.json").write_text(json.dumps(small))
    assert list(products(shop(data=folder, goals="synthetic"))) == ["B00SMALL01"]
    assert len(products(shop(data=folder, products=5000))) == 4
    assert len(products(shop(data=folder, products=1000))) == 1


def test_the_first_products_of_a_long_list_are_read_and_no_more(tmp_path: Path) -> None:
    """Pieces of the file are read as needed: what is broken behind the last product asked for is never seen."""
    folder = write_files(tmp_path)
    many = [row(f"B{n:09d}", f"Scarf number {n} {'wool ' * 400}") for n in range(3000)]
    text = json.dumps(many)
    assert len(text) > 3_000_000
    (folder / "items_shuffle_1000.json").write_text(text[: 2 * len(text) // 3])
    found = products(shop(data=folder, products=900, goals="synthetic"))
    assert len(found) == 900
    assert found["B000000899"].title.startswith("Scarf number 899 wool")


def test_the_spec_of_a_folder_makes_the_same_shop(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "a, folder")
    env = shop(data=str(folder), reward="score", products=6)
    assert env.spec == f"webshop:6,reward=score,goals=human,data={folder}"
    assert make(env.spec) == env
    assert make(env.spec).reset(1) == env.reset(1)


def test_changed_files_are_read_again(tmp_path: Path) -> None:
    folder = write_files(tmp_path)
    before = shop(data=folder)
    (folder / "items_shuffle_1000.json").write_text(json.dumps(PRODUCTS[:1]))
    after = shop(data=folder)
    assert (len(before.shop.catalogue), len(after.shop.catalogue)) == (4, 1)


def test_a_generated_catalogue_written_in_the_original_formats_plays_and_keeps_the_protocol(tmp_path: Path) -> None:
    generated = shop(products=120)
    catalogue = generated.shop.catalogue
    assert isinstance(catalogue, GeneratedCatalogue)
    rows, attributes, people = [], {}, {}
    for at in range(120):
        item = catalogue.product(at)
        options = {name: values(*offer) for name, offer in item.options.items()}
        rows.append(
            row(
                item.asin, item.title, query=item.query, product_category=item.path, category=item.category,
                small_description=list(item.bullets), full_description=item.description, customization_options=options,
                pricing=item.tag.replace(" to ", " - "),
            )
        )  # fmt: skip
        attributes[item.asin] = {"attributes": list(item.attributes)}
    for n in range(600):
        goal = generated.goal(generated.reset(n))
        people.setdefault(goal["asin"], []).append(
            {
                "instruction": goal["instruction_text"],
                "instruction_attributes": goal["attributes"],
                "instruction_options": goal["goal_options"],
            }
        )
    write_files(tmp_path)
    for name, part in (("shuffle_1000", rows), ("ins_v2_1000", attributes), ("human_ins", people)):
        (tmp_path / f"items_{name}.json").write_text(json.dumps(part))
    env = shop(data=tmp_path)
    assert len(env.shop.goals) == 600
    for at in range(120):
        assert indexed_text(env.shop.catalogue.product(at)) == indexed_text(catalogue.product(at))
    for seed in range(0, 600, 5):
        state = env.reset(seed)
        plan = env.solve(state)
        assert plan is not None
        for action in plan:
            step = env.step(state, action)
            state = step.state
        assert step.success
    check_env(env, tasks=3)


# -- what is refused ------------------------------------------------------------------------------------------------

FILES = ("items_shuffle_1000.json", "items_ins_v2_1000.json", "items_human_ins.json")


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named_with_the_way_to_get_it(tmp_path: Path, name: str) -> None:
    folder = write_files(tmp_path)
    (folder / name).unlink()
    with pytest.raises(EnvParameterError) as caught:
        shop(data=folder)
    stem = name.removesuffix("_1000.json").removesuffix(".json")
    for part in (str(folder), stem, "is missing", "setup.sh", "github.com/princeton-nlp/WebShop"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_synthetic_goals_need_no_human_instructions(tmp_path: Path) -> None:
    folder = write_files(tmp_path)
    (folder / "items_human_ins.json").unlink()
    assert len(shop(data=folder, goals="synthetic").shop.goals) == 5


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("cut", [0.0, 0.3, 0.9, -1])
def test_a_half_downloaded_file_is_named_with_the_way_to_get_it(tmp_path: Path, name: str, cut: float) -> None:
    folder = write_files(tmp_path)
    text = (folder / name).read_text()
    (folder / name).write_text(text[:-1] if cut == -1 else text[: int(cut * len(text))])
    with pytest.raises(EnvParameterError) as caught:
        shop(data=folder)
    for part in (str(folder / name), "ends too early", "incomplete", "delete it", "setup.sh"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["<!DOCTYPE html><html>quota exceeded</html>", "{}", '"text"', "[1 2", '[{"asin": x}]', "[" * 100_000, "null"],
)
def test_a_file_that_is_something_else_is_named(tmp_path: Path, text: str) -> None:
    folder = write_files(tmp_path)
    (folder / FILES[0]).write_text(text)
    with pytest.raises(EnvParameterError, match=FILES[0]) as caught:
        shop(data=folder)
    assert "\n" not in str(caught.value)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(EnvParameterError, match=r"nowhere' does not exist; the original's setup.sh"):
        shop(data=tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"products": []}, "the catalogue is empty"),
        ({"products": [row("nan", "x"), row("B000000000001", "too long")]}, "the catalogue is empty"),
        ({"products": {}}, "'products' must be a list"),
        ({"products": None}, "'products' must be a list"),
        ({"products": [7]}, "product 0 must be an object"),
        (
            {"products": [row("B1", "x"), {"asin": "B2"}]},
            "product 1 must be an object with the texts 'asin' and 'name'",
        ),
        ({"products": [row("B1", "x", customization_options={"Size": ["s"]})]}, r"product 0 \(B1\): malformed"),
        ({"products": [row("B1", "x", customization_options=[1])]}, r"product 0 \(B1\): malformed"),
        ({"attributes": []}, "'attributes' must be a mapping"),
        ({"attributes": {"B00SCARF01": {"attributes": "wool"}}}, "expected a list of texts"),
        ({"attributes": {"B00SCARF01": ["wool"]}}, "malformed"),
        ({"human_instructions": {"B00SCARF01": [{}]}}, "malformed: 'instruction'"),
        ({"human_instructions": {"B00SCARF01": "buy"}}, "malformed"),
        ({"humans": {}}, "no part 'humans'"),
        ({"reviews": {}}, "'reviews' must be a list"),
    ],
)
def test_malformed_data_is_refused_with_one_clear_line(parts: dict[str, Any], reason: str) -> None:
    with pytest.raises(EnvParameterError, match=reason) as caught:
        shop(data=data(**parts))
    assert "\n" not in str(caught.value)


def test_data_without_products_and_data_that_is_no_json_are_refused() -> None:
    with pytest.raises(EnvParameterError, match="lacks 'products'"):
        shop(data={"attributes": ATTRIBUTES})
    with pytest.raises(EnvParameterError, match="plain JSON"):
        shop(data=data(products=[object()]))


def test_strange_text_in_data_plays() -> None:
    wish = {"instruction": "\ud800 🧣", "instruction_attributes": ["\x00", "é"], "instruction_options": ["\uff58"]}
    item = row("B1", "\ud800 scarf 🧣\n\t", customization_options={"S[1]": values("a[b]", "\u202ec", "  d \n e ", "")})
    env = shop(data=data(products=[item], human_instructions={"B1": [wish]}))
    state = env.reset(0)
    for action in ("search[scarf]", "click[b1]", "click[a[b]]", "click[d e]", "click[\u202eC]", "click[buy now]"):
        step = env.step(state, action)
        assert step.valid, action
        step.observation.encode()
        json.dumps(step.state, ensure_ascii=False).encode()
        state = step.state
    assert state["options"] == {"s[1]": "\u202ec"}
