"""The page in a real Chromium: what a person does with it, what a run does to it, and what a hostile log cannot."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from chromium import a_browser, a_page, expect
from lamer_graph.cli.crediting import worth_of
from lamer_graph.evaluation.evaluate import report as evaluated
from lamer_graph.report.book import Book
from lamer_graph.report.page import FOLDER, write_report
from lamer_graph.report.runs import find_runs
from lamer_graph.report.server import viewer
from lamer_graph.web.listening import Listening
from report_runs import HOSTILE, a_training, add, an_update, line, played, written

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

ROWS = "#main a.row"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with a_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of three runs: two on the same tasks, and a training."""
    place = tmp_path_factory.mktemp("report")
    for name, contents in (("without", "none"), ("with", "reflection")):
        trials = [played(seed, seed % 3, good=name == "with", version=f"policy-v{seed % 2}") for seed in range(8)]
        trials += [played(8, error="PolicyConnectionError", good=True)]
        written(place / "runs" / name, trials, contents=contents)
    a_training(place / "runs" / "training", updates=3, tasks=1, group=2)
    write_report(Book(find_runs([place / "runs"]), worth_of), place / "report.html", "three runs")
    return (place / "report.html").as_uri()


def texts(page: Page, selector: str) -> list[str]:
    return [text.strip() for text in page.locator(selector).all_inner_texts()]


def box_of(found: Locator) -> dict[str, float]:
    return dict(found.bounding_box() or {"y": 0.0, "height": 0.0})


def fits(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


def test_the_overview_has_every_run_with_its_intervals_its_trials_and_what_memory_brought(
    browser: Browser, report: str
) -> None:
    with a_page(browser, report) as page:
        assert texts(page, "#main h2") == [
            "Success within k attempts",
            "training: training",
            "Every trial",
            "What the memory brings",
            "How they were played",
            "How it was trained",
        ]
        assert page.locator("svg.passes .whisker").count() == 6
        assert page.locator(".strip .cell").count() == 18
        assert page.locator(".strip .cell.failed").count() == 2
        assert page.locator("svg.chart:not(.passes) polyline").count() == 3
        page.locator(".strip .cell").first.click()
        page.wait_for_selector(".episode.active")


def test_what_is_drawn_and_its_name_in_the_legend_have_one_colour(browser: Browser, tmp_path: Path) -> None:
    folder = a_training(tmp_path / "training", updates=2, tasks=1, group=2)
    an_update(folder, 3, **{"validation/pass@k": [0.2, 0.4, 0.6]})
    write_report(Book(find_runs([folder])), tmp_path / "report.html", "x")
    hues = "all => all.map(one => getComputedStyle(one)[one.tagName === 'I' ? 'backgroundColor' : 'fill'])"
    with a_page(browser, (tmp_path / "report.html").as_uri()) as page:
        for view in ("#/", "#/training/0"):
            page.evaluate(f"location.hash = '{view}'")
            (named,) = page.locator(".legend li", has_text="validation, pass@3").locator("i").evaluate_all(hues)
            (drawn,) = page.locator(".chart:not(.small) circle.point").evaluate_all(hues)
            assert named == drawn
            assert named not in page.locator(".legend li", has_text="pass@1").locator("i").evaluate_all(hues)


def test_a_chart_of_many_runs_shows_those_that_are_ticked_and_its_address_names_them(
    browser: Browser, tmp_path: Path
) -> None:
    for number in range(8):
        written(tmp_path / "runs" / f"run-{number}", [played(seed) for seed in range(3)])
    write_report(Book(find_runs([tmp_path / "runs"])), tmp_path / "report.html", "x", most=0)
    address = (tmp_path / "report.html").as_uri()
    drawn = "svg.passes .series > g:first-of-type title"
    with a_page(browser, address) as page:
        assert page.locator("svg.passes .series").count() == 6
        assert "room for 6 of these 8 runs" in page.locator("#main").inner_text()
        assert page.locator("#show-7").is_disabled()
        page.uncheck("#show-0")
        page.check("#show-7")
        shown = [text.split(",")[0] for text in page.locator(drawn).all_text_contents()]
        assert shown == [f"run-{number}" for number in (1, 2, 3, 4, 5, 7)]
        address = page.evaluate("location.href")
    with a_page(browser, address) as page:
        assert [text.split(",")[0] for text in page.locator(drawn).all_text_contents()] == shown


def test_long_names_leave_the_bar_in_one_line_and_are_whole_where_one_points(browser: Browser, tmp_path: Path) -> None:
    names = [f"a training with a very long name and {'more ' * 12}{number}" for number in range(3)]
    for name in names:
        a_training(tmp_path / "runs" / name, updates=1, tasks=1, group=1)
    write_report(Book(find_runs([tmp_path / "runs"])), tmp_path / "report.html", "x")
    with a_page(browser, (tmp_path / "report.html").as_uri()) as page:
        assert fits(page)
        bar = page.locator("header.bar-top").bounding_box()
        assert bar is not None
        assert all(
            box["y"] + box["height"] <= bar["height"] for box in map(box_of, page.locator("header.bar-top > *").all())
        )
        assert {len(text) for text in texts(page, "#tabs a")} <= {6, 8, *range(20, 26)}
        assert page.locator("#tabs a").nth(2).get_attribute("title") == names[0]
        assert names[0] in page.locator("#main").inner_text()


def test_numbers_of_the_page_are_rounded_as_the_commands_round_them(browser: Browser) -> None:
    values = [number / parts for parts in (16, 40, 160, 999) for number in range(parts + 1)]
    page = browser.new_page()
    module = (FOLDER / "dom.js").read_text().replace("export ", "")
    page.add_script_tag(content=module + "; Object.assign(window, { fixed, percent, points })", type="module")
    told = page.evaluate(
        "values => values.map(value => [percent(value), fixed(10 * value, 2), fixed(value, 3)])", values
    )
    page.close()
    assert told == [[f"{value:.1%}", f"{10 * value:.2f}", f"{value:.3f}"] for value in values]


def test_the_table_says_the_commands_numbers_and_why_there_is_no_diversity(browser: Browser, tmp_path: Path) -> None:
    once = written(tmp_path / "once", [played(seed, good=seed < 5) for seed in range(8)])
    twice = written(tmp_path / "twice", [played(seed, index) for seed in range(2) for index in range(2)])
    summary = evaluated(once).summary
    for folders, column in (([once], []), ([once, twice], ["one trial a task"])):
        out = tmp_path / "report.html"
        write_report(Book(find_runs(folders)), out, "x")
        with a_page(browser, out.as_uri()) as page:
            cells = texts(page, ".numbers tbody tr:first-child >> nth=0 >> td")
            assert [cell.split()[0] for cell in cells[1:4]] == [f"{one.value:.1%}" for one in summary.pass_at]
            assert cells[4] == f"{summary.turns_per_episode.value:.2f}"
            assert cells[5:-1] == [f"{summary.invalid_rate.value:.1%}", *column]
            assert ("Diversity is measured where" in page.locator("#main").inner_text()) == (not column)


def test_the_list_is_filtered_sorted_and_searched_and_its_address_says_how(browser: Browser, report: str) -> None:
    with a_page(browser, report + "#/trials") as page:
        assert page.locator(ROWS).count() == 24
        page.select_option("[data-filter=outcome]", "error")
        assert page.locator(ROWS).count() == 2
        assert "PolicyConnectionError" in page.locator(ROWS).first.inner_text()
        page.select_option("[data-filter=outcome]", "")
        page.select_option("[data-filter=version]", "policy-v1")
        page.select_option("[data-filter=run]", "1")
        assert page.locator(ROWS).count() == 4
        page.locator("[data-filter=invalid]").check()
        kept = page.locator(ROWS).count()
        assert page.locator(f"{ROWS} .c-invalid b").count() == kept < 5
        assert page.evaluate("location.hash") == "#/trials?version=policy-v1&run=1&invalid=1"
        page.goto(report + "#/trials?sort=turns&down=1")
        expect(page.locator("[data-filter=sort]")).to_have_value("turns")
        turns = [int(text.split()[-1]) for text in texts(page, f"{ROWS} .c-turns")]
        assert turns == sorted(turns, reverse=True)
        page.keyboard.press("/")
        page.keyboard.type("4x4-3/5")
        expect(page.locator("#main a.row")).to_have_count(2)
        assert page.evaluate("document.activeElement.id") == "search"


def test_a_trial_is_stepped_through_by_the_keyboard_across_its_episodes(browser: Browser, report: str) -> None:
    with a_page(browser, report + "#/trials?outcome=3") as page:
        page.locator(ROWS).first.click()
        page.wait_for_selector("#main[data-ready=yes]")
        assert page.locator(".episode").count() == 3
        assert page.locator(".episode svg").count() == 3
        counts = [page.locator(f".episode >> nth={n} >> .chip").count() for n in range(3)]
        seen = set()
        for number, count in enumerate(counts):
            for step in range(count):
                assert page.locator(".episode.active").get_attribute("data-episode") == str(number)
                assert page.locator(".chip.now").get_attribute("data-step") == str(step)
                seen.add(page.evaluate("location.hash"))
                page.keyboard.press("ArrowRight")
        assert len(seen) >= sum(counts) - 1
        page.keyboard.press("ArrowUp")
        assert page.locator(".episode.active").get_attribute("data-episode") == "1"
        page.keyboard.press("ArrowLeft")
        assert page.locator(".chip.now").get_attribute("data-step") == str(counts[0] - 1)
        assert "the reflection it wrote" in page.locator(".detail h3").first.inner_text()
        assert "mind the corner, attempt 1" in page.locator(".written").inner_text()
        assert texts(page, ".episode:nth-child(2) .memory .quoted") == ["mind the corner, attempt 1"]


def test_a_turn_shows_what_was_read_written_and_how_likely_and_its_address_opens_it_again(
    browser: Browser, report: str
) -> None:
    with a_page(browser, report + "#/trials?run=2&outcome=lost") as page:
        page.locator(ROWS).first.click()
        page.wait_for_selector("#main[data-ready=yes]")
        page.locator(".episode:nth-child(2) .chip").nth(1).click()
        address = page.evaluate("location.href")
        told = page.locator(".detail").inner_text()
        for word in ("Episode 2, turn 2", "return", "reward", "seed", "observation", "<action>"):
            assert word in told
        assert "Episode 2 turn 2" in page.locator(".prompt details[open]").inner_text()
        shades = page.locator(".strip-tokens i").evaluate_all(
            "all => all.map(one => getComputedStyle(one).getPropertyValue('--rare'))"
        )
        assert len(set(shades)) > 3
        assert "p = " in (page.locator(".strip-tokens i").nth(2).get_attribute("title") or "")
    with a_page(browser, address) as page:
        page.wait_for_selector("#main[data-ready=yes]")
        assert "Episode 2, turn 2" in page.locator(".detail").inner_text()


def test_turns_of_a_group_are_coloured_by_their_advantage(browser: Browser, report: str) -> None:
    with a_page(browser, report + "#/trials?run=0&update=2") as page:
        assert page.locator(ROWS).count() == 2
        page.locator(ROWS).first.click()
        page.wait_for_selector("#main[data-ready=yes]")
        assert "advantage" in page.locator(".key-line").inner_text()
        assert page.locator(".chip").first.evaluate("one => one.style.getPropertyValue('--worth')") != ""


def test_two_runs_on_one_task_are_set_beside_each_other_and_stepped_through_together(
    browser: Browser, report: str
) -> None:
    with a_page(browser, report + "#/trials?q=4x4-3/4&run=2") as page:
        page.locator(ROWS).first.click()
        page.get_by_role("link", name="all 2 trials").click()
        page.wait_for_selector(".story svg")
        assert page.locator(".story").count() == 2
        page.get_by_role("link", name="beside the next").click()
        page.wait_for_selector("#main[data-ready=yes]")
        assert sorted(texts(page, ".side h2")) == ["with", "without"]
        page.keyboard.press("ArrowRight")
        assert texts(page, ".side h3") == ["turn 2", "turn 2"]
        page.keyboard.press("ArrowDown")
        assert page.evaluate("location.hash").endswith("/1/0")


def test_light_and_dark_follow_the_machine_until_somebody_chooses(browser: Browser, report: str) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    with a_page(browser, report, color_scheme="dark") as page:
        dark = page.evaluate(paper)
        page.click("#theme")
        assert page.evaluate(paper) != dark
        page.reload()
        page.wait_for_selector("html[data-open=yes]")
        assert page.evaluate("document.documentElement.dataset.theme") == "light"


def test_no_view_is_wider_than_a_phone(browser: Browser, report: str) -> None:
    with a_page(browser, report, 390, has_touch=True) as page:
        for address in (
            "",
            "#/trials",
            "#/trial/1/2/0/0",
            "#/task/minesweeper%3A4x4-3%2F4",
            "#/beside/1/4/2/4",
            "#/training/0",
        ):
            page.goto(report + address)
            page.wait_for_timeout(150)
            assert fits(page), address
            assert page.locator("#main").inner_text().strip()


def test_an_address_of_nothing_says_so(browser: Browser, report: str) -> None:
    with a_page(browser, report + "#/trial/0/9999") as page:
        assert "nothing at this address" in page.locator("#main").inner_text()
        page.goto(report + "#/%E0%A4%A")
        assert "nothing at this address" in page.locator("#main").inner_text()


def test_what_a_hostile_log_says_stays_text_and_what_hides_in_it_is_shown(browser: Browser, tmp_path: Path) -> None:
    trial = played(5, remark=HOSTILE)
    trial["task"]["id"] = HOSTILE
    trial["trial_id"] = f"{HOSTILE}#0"
    trial["extra"] = {HOSTILE: HOSTILE}
    trial["error"] = {"type": HOSTILE, "message": HOSTILE, "episode": 0, "turn": 0}
    for episode in trial["episodes"]:
        for turn in episode["turns"]:
            turn["observation"] = turn["text"] = turn["action"] = HOSTILE
            turn["call"]["policy_version"] = HOSTILE
            turn["call"]["finish_reason"] = HOSTILE
    trial["texts"] = [HOSTILE + str(number) for number, _ in enumerate(trial["texts"])]
    trial["episodes"][0]["turns"][1]["text"] = "\u202e" + "m" * 1_000_000
    trial["memory_reads"] = [{"episode": 0, "keys": [HOSTILE, f"{HOSTILE}/0/{HOSTILE}"], "seconds": 0.0}]
    run = written(tmp_path / "run<b>", [trial, played(6)], policy=HOSTILE, contents=HOSTILE, env=HOSTILE)
    write_report(Book(find_runs([run]), worth_of), tmp_path / "report.html", HOSTILE)
    address = (tmp_path / "report.html").as_uri()
    with a_page(browser, address) as page:
        for view in ("#/", "#/trials", "#/trial/0/0/0/0", "#/trial/0/0/0/1", "#/task/" + "x", "#/beside/0/0/0/1"):
            page.goto(address + view)
            page.wait_for_timeout(100)
        page.goto(address + "#/trial/0/0/0/0")
        page.wait_for_selector("#main[data-ready=yes]")
        written_text = page.locator(".written .said").first
        assert "</script><script>alert(1)" in written_text.inner_text()
        assert texts(page, ".written .mark")[:3] == ["U+202E", "U+202C", "U+2028"]
        assert written_text.evaluate("one => getComputedStyle(one).unicodeBidi") == "isolate"
        assert page.locator("#main img, #main script, #main iframe, a[href^=javascript]").count() == 0
        page.keyboard.press("ArrowRight")
        assert "980,001 more characters are in the log" in page.locator(".written").inner_text()
        assert fits(page)


def test_a_run_that_is_still_being_written_is_followed_and_so_is_its_torn_line(
    browser: Browser, tmp_path: Path
) -> None:
    folder = written(tmp_path / "run", [played(1), played(2)])
    whole = line(played(4))
    (folder / "trials.jsonl").open("ab").write(whole[:200])
    book = Book(find_runs([folder]), worth_of)
    with (
        Listening(viewer(book, "a run"), "127.0.0.1", 0, keyed=False, grace_s=1) as listening,
        a_page(browser, listening.base_url + "/#/trials") as page,
    ):
        assert page.locator(ROWS).count() == 2
        with (folder / "trials.jsonl").open("ab") as file:
            file.write(whole[200:])
        add(folder, [played(5)])
        expect(page.locator("#main a.row")).to_have_count(4)
        assert "live · 4 trials" in page.locator("#status").inner_text()
        page.locator(ROWS).nth(3).click()
        page.wait_for_selector("#main[data-ready=yes]")
        page.keyboard.press("ArrowRight")
        before = page.evaluate("location.hash")
        add(folder, [played(6)])
        expect(page.locator("#status")).to_contain_text("5 trials")
        assert page.evaluate("location.hash") == before  # who looks at a turn is left there
        page.goto(listening.base_url + "/#/")
        page.wait_for_selector("svg.passes")


def test_a_run_that_has_only_begun_says_so_until_its_first_trial_ends(browser: Browser, tmp_path: Path) -> None:
    folder = written(tmp_path / "run", [])
    book = Book(find_runs([folder]), worth_of)
    with (
        Listening(viewer(book, "a run"), "127.0.0.1", 0, keyed=False, grace_s=1) as listening,
        a_page(browser, listening.base_url + "/") as page,
    ):
        assert "No trial has ended yet" in page.locator("#main").inner_text()
        add(folder, [played(1)])
        expect(page.locator(".strip .cell")).to_have_count(1)
        assert "No trial has ended yet" not in page.locator("#main").inner_text()


def test_a_training_is_followed_update_by_update(browser: Browser, tmp_path: Path) -> None:
    folder = a_training(tmp_path / "training", updates=2, tasks=1, group=2)
    book = Book(find_runs([folder]), worth_of)
    with (
        Listening(viewer(book, "a training"), "127.0.0.1", 0, keyed=False, grace_s=1) as listening,
        a_page(browser, listening.base_url + "/#/training/0") as page,
    ):
        assert page.locator(".timeline a").count() == 2
        assert "2 updates of 4" in page.locator(".headline").inner_text()
        written(folder / "collected" / "update-00002", [played(33, index, good=True) for index in range(2)])
        an_update(folder, 3)
        expect(page.locator(".timeline a")).to_have_count(3)
        assert "3 updates of 4" in page.locator(".headline").inner_text()
        page.locator(".timeline a").nth(2).click()
        assert page.locator(ROWS).count() == 2


def test_a_server_that_has_stopped_is_said_and_what_is_there_can_still_be_looked_at(
    browser: Browser, tmp_path: Path
) -> None:
    book = Book(find_runs([written(tmp_path / "run", [played(1), played(2)])]), worth_of)
    listening = Listening(viewer(book, "a run"), "127.0.0.1", 0, keyed=False, grace_s=1)
    inside = browser.new_context()
    with listening:
        page = inside.new_page()
        page.goto(listening.base_url + "/#/trial/0/1")
        page.wait_for_selector("#main[data-ready=yes]")
    expect(page.locator("#status")).to_contain_text("has stopped")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("location.hash") == "#/trial/0/1/0/1"
    inside.close()


@pytest.mark.slow  # by the clock, which a busy machine does not keep
def test_ten_thousand_trials_are_listed_within_two_seconds_and_scrolled_without_holding_them(
    browser: Browser, tmp_path: Path, record_property: pytest.RecordProperty
) -> None:
    patterns = [json.dumps(played(seed, good=True)) for seed in range(10)]
    folder = written(tmp_path / "run", [])
    with (folder / "trials.jsonl").open("w") as file:
        for number in range(10_000):
            seed = number % 10
            file.write(patterns[seed].replace(f"4x4-3/{seed}", f"4x4-3/{number}") + "\n")
    book = Book(find_runs([folder]), worth_of)
    begun = time.perf_counter()
    book.refresh()
    indexed = time.perf_counter() - begun
    with Listening(viewer(book, "a run"), "127.0.0.1", 0, keyed=False, grace_s=1) as listening:
        inside = browser.new_context(viewport={"width": 1280, "height": 900})
        page = inside.new_page()
        begun = time.perf_counter()
        page.goto(listening.base_url + "/#/trials", wait_until="commit")
        page.wait_for_selector(ROWS)
        first = time.perf_counter() - begun
        page.wait_for_selector("html[data-open=yes]")
        everything = time.perf_counter() - begun
        assert page.locator(ROWS).count() < 60
        begun = time.perf_counter()
        page.evaluate("document.querySelector('.rows').scrollTop = 1e9")
        page.wait_for_selector(f"{ROWS}[href$='/0/9999']")
        scrolled = time.perf_counter() - begun
        begun = time.perf_counter()
        page.fill("#search", "4x4-3/9998")
        expect(page.locator("#main a.row")).to_have_count(1)
        found = time.perf_counter() - begun
        inside.close()
    took = {"indexed": indexed, "first row": first, "all": everything, "end": scrolled, "search": found}
    told = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in took.items())
    print(told)
    record_property("ten thousand trials", told)
    assert first < 2.0, told
    assert everything < 6.0, told
    assert found < 2.0, told
