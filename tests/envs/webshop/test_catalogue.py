"""The generated catalogue of WebShop, its search engine, and the players that prove that its goals can be won."""

from __future__ import annotations

import itertools
import json
import os
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lamer_envs import make
from lamer_envs.checker import check_env
from lamer_envs.webshop.catalogue import FAMILY, GeneratedCatalogue, Product
from lamer_envs.webshop.env import Webshop
from lamer_envs.webshop.lexicon import CHOICES, KINDS, QUALITIES
from lamer_envs.webshop.players import right_options
from lamer_envs.webshop.reward import attribute_met, option_met, score
from lamer_envs.webshop.search import CACHE_VARIABLE, HITS, build_index, cache_folder, open_index
from lamer_envs.webshop.words import keywords
from places import ROOT


def shop(spec: str = "webshop") -> Webshop:
    env = make(spec)
    assert isinstance(env, Webshop)
    return env


# -- the catalogue --------------------------------------------------------------------------------------------------


def test_a_product_depends_on_the_seed_and_its_position_alone() -> None:
    small, large, other = GeneratedCatalogue(50), GeneratedCatalogue(100_000), GeneratedCatalogue(50, seed=1)
    assert [small.product(at) for at in range(50)] == [large.product(at) for at in range(50)]
    assert [small.product(at).title for at in range(50)] != [other.product(at).title for at in range(50)]


def test_ids_name_their_products() -> None:
    catalogue = GeneratedCatalogue(100_000)
    ids = set()
    for at in range(0, 100_000, 97):
        asin = catalogue.product(at).asin
        assert (len(asin), asin[0]) == (10, "B")
        assert catalogue.find(asin) == catalogue.find(f" {asin.lower()} ") == at
        ids.add(asin)
    assert len(ids) == len(range(0, 100_000, 97))
    assert GeneratedCatalogue(10).find(catalogue.product(11).asin) is None
    for strange in ("", "B", "BIIIIIIIII", "b00000000é", "X123456789"):
        assert catalogue.find(strange) is None
    with pytest.raises(IndexError):
        catalogue.product(100_000)


def test_products_have_exactly_one_value_of_each_of_their_qualities() -> None:
    """By the score's own matching, and wherever it looks: this is what makes a near-miss a miss."""
    catalogue = GeneratedCatalogue(700, seed=3)
    for at in range(700):
        item = catalogue.product(at)
        for quality in catalogue.kind(at // FAMILY).qualities:
            met = [value for value in QUALITIES[quality].values if attribute_met(item, value)]
            assert len(met) == 1, (item.title, quality, met)
            assert met[0] in item.attributes


@pytest.mark.parametrize("name", sorted(CHOICES))
def test_no_two_values_of_an_option_match_each_other(name: str) -> None:
    for one, other in itertools.permutations(CHOICES[name].values, 2):
        assert not option_met(one, [other]), (one, other)


def test_no_option_value_is_clicked_by_the_name_of_another() -> None:
    for kind in KINDS:
        offered = [value for name in kind.choices for value in CHOICES[name].values]
        assert len(set(offered)) == len(offered)


def changes(item: Product, base: Product) -> tuple[int, int, int]:
    """How many qualities, options and prices of a product are not those of another."""
    qualities = sum(one != other for one, other in zip(item.attributes, base.attributes, strict=True))
    options = sum(item.options[name] != base.options[name] for name in base.options)
    return qualities, options, int(item.price > base.price + 40)


def test_a_family_is_a_product_and_its_near_misses() -> None:
    catalogue = GeneratedCatalogue(1000)
    for family in range(200):
        members = catalogue.family(family)
        assert len({(item.query, item.path, item.category) for item in members}) == 1
        assert len({item.title for item in members}) == FAMILY
        told = [sorted(changes(item, base) for item in members) for base in members]
        assert [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (1, 0, 0)] in told


def test_most_goals_have_a_near_miss_of_the_right_kind() -> None:
    env = shop()
    catalogue = env.shop.catalogue
    assert isinstance(catalogue, GeneratedCatalogue)
    near = 0
    for seed in range(0, 5000, 25):
        goal = env.goal(env.reset(seed))
        at = catalogue.find(goal["asin"])
        assert at is not None
        scores = [
            score(item, goal, right_options(item, goal), catalogue.nouns) for item in catalogue.family(at // FAMILY)
        ]
        assert all(each.type_score == 1 for each in scores)
        near += any(0 < each.total < 1 for each in scores)
    assert near >= 0.9 * 200


def test_the_catalogue_is_varied() -> None:
    catalogue = GeneratedCatalogue(1000)
    items = [catalogue.product(at) for at in range(1000)]
    assert {item.query for item in items} == {kind.phrase for kind in KINDS}
    assert len({item.category for item in items}) >= 10
    assert len({item.description for item in items}) >= 990
    assert any(" to " in item.tag for item in items)
    assert any("Prices by" in item.description for item in items)
    assert {len(item.reviews) for item in items} == {0, 1, 2, 3}
    ranged = [item for item in items if " to " in item.tag]
    for item in ranged:
        low, high = (float(end.strip("$")) for end in item.tag.split(" to "))
        assert low <= item.price <= high


def test_keywords_of_an_instruction_leave_out_talk_and_price() -> None:
    env = shop()
    for seed in range(0, 5000, 50):
        goal = env.goal(env.reset(seed))
        words = keywords(goal["instruction_text"], limit=30)
        assert not {"dollars", "need", "looking", "price", "budget"} & set(words)
        assert str(int(goal["price_upper"])) not in words or f" {int(goal['price_upper'])}" in " ".join(
            [*goal["goal_options"], goal["query"]]
        )
        assert set(goal["query"].split()) <= set(words)


# -- search ---------------------------------------------------------------------------------------------------------


def test_hits_are_best_first_and_ties_are_in_the_order_of_the_catalogue() -> None:
    rows = [{"asin": f"B{n}", "name": "red scarf" if n % 3 else "red red scarf wool"} for n in range(200)]
    env = make("webshop", data={"products": rows})
    assert isinstance(env, Webshop)
    assert env.shop.search("red") == tuple(range(0, 150, 3))[:HITS]
    assert env.shop.search("scarf") == tuple(n for n in range(200) if n % 3)[:HITS]
    assert env.shop.search("wool") == tuple(range(0, 200, 3))[:HITS]


def test_ties_do_not_depend_on_how_the_index_is_cut_into_segments(tmp_path: Path) -> None:
    """An index of several segments ranks as one of one segment does."""
    import tantivy

    from lamer_envs.webshop import search as engine

    catalogue = GeneratedCatalogue(400)
    whole = build_index(catalogue, None)
    schema = engine._schema()
    index = tantivy.Index(schema, path=str(tmp_path))
    index.register_tokenizer(engine._ANALYSER, engine._analyser())
    for start in (200, 0, 300, 100):  # not in the order of the catalogue
        writer = index.writer(heap_size=20_000_000, num_threads=1)
        for number, text in itertools.islice(engine._documents(catalogue), start, start + 100):
            document = tantivy.Document()
            document.add_integer(engine._NUMBER, number)
            document.add_text(engine._FIELD, text)
            writer.add_document(document)
        writer.commit()
        writer.wait_merging_threads()
    index.reload()
    pieces = engine.SearchIndex(index, schema)
    assert index.searcher().num_segments > 1
    for query in ("black", "waterproof bag", "dog bed", "gift", "letter workshop", "a size", "zzz"):
        assert pieces.search(query) == whole.search(query), query


def test_an_index_is_built_once_and_then_opened_by_other_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    here = shop("webshop:150,seed=21")
    hits = here.shop.search("black shoes")
    (place,) = cache_folder().iterdir()
    built = {file.name: file.stat().st_mtime_ns for file in place.iterdir()}
    code = (
        "import json, lamer_envs.webshop.search as engine; from lamer_envs import make\n"
        "def refuse(*_): raise SystemExit('built again')\n"
        "engine.build_index = refuse\n"
        "print(json.dumps(make('webshop:150,seed=21').shop.search('black shoes')))"
    )
    children = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, env={**os.environ, "PYTHONHASHSEED": str(n)}
        )
        for n in range(2)
    ]
    for child in children:
        told, _ = child.communicate(timeout=60)
        assert child.returncode == 0
        assert tuple(json.loads(told)) == hits
    assert {file.name: file.stat().st_mtime_ns for file in place.iterdir()} == built


def test_a_damaged_index_is_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    catalogue = GeneratedCatalogue(60)
    hits = open_index(catalogue).search("black")
    (place,) = cache_folder().iterdir()
    (place / "meta.json").write_text("{")
    assert open_index(catalogue).search("black") == hits
    assert (place / "meta.json").read_text() != "{"


def test_without_a_place_on_disk_the_index_is_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    catalogue = GeneratedCatalogue(60)
    hits = open_index(catalogue).search("black")
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file"))
    assert open_index(catalogue).search("black") == hits


def test_the_cache_keeps_the_indexes_used_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lamer_envs.webshop import search as engine

    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setattr(engine, "KEPT", 3)
    for name, age in (("building-by-a-dead-process", 100_000), ("building-now", 10)):
        (cache_folder() / name).mkdir(parents=True)
        os.utime(cache_folder() / name, (time.time() - age,) * 2)
    for seed in range(5):
        open_index(GeneratedCatalogue(5, seed))
    places = [place for place in cache_folder().iterdir() if not place.name.startswith("building")]
    assert [place.name for place in cache_folder().iterdir() if place not in places] == ["building-now"]
    assert len(places) == 3
    assert all((place / "meta.json").is_file() for place in places)


def test_sixty_four_trials_share_one_index() -> None:
    envs = [shop("webshop:200,seed=6") for _ in range(64)]
    assert len({id(env.shop) for env in envs}) == 1

    def trial(number: int) -> list[str]:
        env, rng = envs[number], random.Random(number)
        state, seen = env.reset(number), []
        for _ in range(env.max_turns):
            step = env.step(state, env.weak(state, rng))
            seen.append(step.observation)
            state = step.state
            if step.done:
                break
        return seen

    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(trial, range(64)))
    assert together == [trial(number) for number in range(64)]


# -- players --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["webshop", "webshop:300,goals=synthetic,seed=2"])
def test_the_expert_wins_every_goal_within_the_budget(spec: str) -> None:
    env = shop(spec)
    stride = max(1, len(env.shop.goals) // 5000)
    for seed in range(0, len(env.shop.goals), stride):
        state = env.reset(seed)
        plan = env.solve(state)
        assert plan is not None
        assert len(plan) <= env.max_turns
        for action in plan:
            step = env.step(state, action)
            assert step.valid
            state = step.state
        assert (step.reward, step.done, step.success, state["score"]) == (10.0, True, True, 1.0)


def test_the_expert_wins_from_the_middle_of_an_episode() -> None:
    env, rng = shop("webshop:300"), random.Random(5)
    for seed in range(60):
        state = env.reset(seed)
        for _ in range(rng.randrange(8)):
            step = env.step(state, env.weak(state, rng))
            if step.done:
                break
            state = step.state
        plan = env.solve(state)
        assert plan is not None
        for action in plan:
            step = env.step(state, action)
            assert step.valid
            state = step.state
        assert step.success
        assert env.solve(state) is None


def test_the_weak_player_wins_sometimes_and_acts_validly() -> None:
    env = shop()
    won = 0
    for seed in range(300):
        state, rng = env.reset(seed), random.Random(seed)
        for _ in range(env.max_turns):
            step = env.step(state, env.weak(state, rng))
            assert step.valid
            state = step.state
            if step.done:
                won += step.success
                break
    assert 0.15 <= won / 300 <= 0.5
    with pytest.raises(ValueError, match="over"):
        env.weak(state, random.Random(0))


@pytest.mark.parametrize("spec", ["webshop", "webshop:200,reward=score,goals=synthetic,seed=8"])
def test_the_protocol_is_kept(spec: str) -> None:
    check_env(make(spec))


def test_the_example_shows_a_right_a_near_and_a_wrong_purchase() -> None:
    example = ROOT / "examples" / "webshop_transcripts.py"
    done = subprocess.run([sys.executable, str(example)], capture_output=True, text=True, check=True, timeout=60)
    scores = [float(line.split("= ")[-1]) for line in done.stdout.splitlines() if line.startswith("score ")]
    assert len(scores) == 3
    assert scores[0] == 1.0 > scores[1] > 0.4 > scores[2]
    for title in ("the right purchase", "a near-miss", "a wrong purchase"):
        assert f"===== {title} =====" in done.stdout


def test_importing_the_environments_imports_no_search_engine() -> None:
    code = "import sys, lamer_envs, lamer_envs.webshop.env; assert not {'tantivy', 'numpy', 'spacy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_hundred_thousand_products_cost_nothing_until_they_are_looked_at() -> None:
    env = shop("webshop:100000")
    assert len(env.shop.catalogue) == 100_000
    assert len(env.shop.goals) == 500_000
    assert [len(env.shop.goals.splits[split]) for split in ("test", "val", "train")] == [500, 1000, 498_500]
    assert env.observe(env.reset(499_999)).startswith("WebShop [SEP] Instruction:")
