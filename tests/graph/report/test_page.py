"""The page as a file and as a server gives it: self-contained, its data inert, and only read from."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from command_line import Cli, started
from lamer_graph.errors import ConfigError, RunLogError
from lamer_graph.report import page as page_module
from lamer_graph.report.book import Book
from lamer_graph.report.page import FOLDER, json_text, script, write_report
from lamer_graph.report.runs import find_runs
from lamer_graph.report.server import viewer
from lamer_graph.web.listening import Listening
from places import ROOT
from report_runs import HOSTILE, add, played, written


def report_of(*folders: Path, most: int = 200) -> str:
    out = folders[0].parent / "report.html"
    write_report(Book(find_runs(folders)), out, "a title", most)
    return out.read_text(encoding="utf-8")


@given(st.text(alphabet=st.characters(codec="utf-8")))
def test_json_in_the_page_is_the_same_data_and_cannot_end_its_element(text: str) -> None:
    told = json_text({"text": text, text: [text]})
    assert json.loads(told) == {"text": text, text: [text]}
    assert not set("<>&\u2028\u2029") & set(told)


def test_hostile_text_is_nowhere_in_the_file_as_markup(tmp_path: Path) -> None:
    trial = played(1, remark=HOSTILE)
    trial["task"]["id"] = trial["trial_id"] = trial["episodes"][0]["turns"][0]["text"] = HOSTILE
    file = report_of(written(tmp_path / "run", [trial], policy=HOSTILE))
    assert "alert(1)" in file
    assert "<script>alert" not in file
    assert "<img" not in file
    assert file.count("</script>") == file.count("<script ")


def test_only_the_pages_own_script_and_style_may_run_and_nothing_is_fetched(tmp_path: Path) -> None:
    file = report_of(written(tmp_path / "run", [played(1)]))
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', file)
    assert policy is not None
    rules = policy[1].replace("&#39;", "'")
    assert "unsafe" not in rules
    assert "default-src 'none'" in rules
    assert "connect-src 'none'" in rules
    for element, directive in (("script type=.module.", "script-src"), ("style", "style-src")):
        found = re.search(rf"<{element}>(.*?)</", file, flags=re.S)
        assert found is not None
        digest = base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in rules
    without = file.replace("http://www.w3.org/2000/svg", "")  # a name, not an address
    assert not re.search(r"https?://|@import|\bsrc=|url\(", without)


def test_the_modules_are_joined_without_a_word_of_modules_and_all_of_them_are() -> None:
    assert not re.search(r"^(import|export)\b", script(), flags=re.MULTILINE)
    assert {path.stem for path in FOLDER.glob("*.js")} == set(page_module.MODULES)
    for name in page_module.MODULES:
        needed = re.findall(r'from "\./(\w+)\.js"', (FOLDER / f"{name}.js").read_text())
        assert [other for other in needed if page_module.MODULES.index(other) > page_module.MODULES.index(name)] == []
        assert " as " not in "".join(re.findall(r"^import .*", (FOLDER / f"{name}.js").read_text(), flags=re.MULTILINE))


def test_every_file_of_the_page_is_in_the_package() -> None:
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    packed = {path for pattern in told["lamer_graph.report"] for path in FOLDER.parent.glob(pattern)}
    assert {path for path in FOLDER.iterdir() if path.is_file()} <= packed


@pytest.mark.parametrize(
    "word", ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function("]
)
def test_no_text_is_ever_parsed_as_markup_or_code(word: str) -> None:
    assert word not in script()


def test_trials_beyond_the_most_are_listed_without_their_turns(tmp_path: Path) -> None:
    file = report_of(written(tmp_path / "run", [played(seed) for seed in range(5)]), most=2)
    assert re.findall(r'id="(trial-[^"]*)"', file) == ["trial-0-0", "trial-0-1"]
    assert json.loads(re.findall(r'id="rows">(.*?)</script>', file)[0])[0]["total"] == 5


def test_a_report_that_cannot_be_written_leaves_nothing_and_one_of_no_trial_is_refused(tmp_path: Path) -> None:
    run = written(tmp_path / "run", [played(1)])
    with pytest.raises(ConfigError, match="choose another file"):
        write_report(Book(find_runs([run])), tmp_path / "no" / "report.html", "x")
    empty = written(tmp_path / "empty", [])
    with pytest.raises(RunLogError, match="holds no trial that can be shown yet"):
        write_report(Book(find_runs([empty])), tmp_path / "report.html", "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "run"]


# -- the server -------------------------------------------------------------------------------------------------------


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    folder = written(tmp_path / "run", [played(seed) for seed in range(3)])
    book = Book(find_runs([folder]))
    with Listening(viewer(book, "a run"), "127.0.0.1", 0, keyed=False, grace_s=1) as listening:
        yield listening.base_url, folder


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of a run that nobody writes to."""
    folder = written(tmp_path_factory.mktemp("still") / "run", [played(seed) for seed in range(3)])
    with Listening(viewer(Book(find_runs([folder])), "a run"), "127.0.0.1", 0, keyed=False, grace_s=1) as listening:
        yield listening.base_url


def ask(url: str, method: str = "GET", **headers: str) -> tuple[int, Any, Any]:
    request = urllib.request.Request(url, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def test_the_server_answers_with_the_page_and_its_policy(url: str) -> None:
    code, headers, body = ask(url)
    assert code == 200
    assert b"lamer-graph" in body
    assert "connect-src 'self'" in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["cache-control"] == "no-store"


def test_a_trial_that_was_just_written_can_be_asked_for(served: tuple[str, Path]) -> None:
    url, folder = served
    assert json.loads(ask(f"{url}/api/state")[2])["counts"] == [3]
    add(folder, [played(77)])
    assert json.loads(ask(f"{url}/api/state")[2])["counts"] == [4]
    rows = json.loads(ask(f"{url}/api/rows?run=0&first=3")[2])
    assert rows["columns"]["task"] == ["minesweeper:4x4-3/77"]
    assert json.loads(ask(f"{url}/api/trial?run=0&row=3")[2])["task"]["seed"] == 77


def test_the_numbers_of_the_whole_follow_without_being_asked_for(url: str) -> None:
    late = time.monotonic() + 20
    while not (told := json.loads(ask(f"{url}/api/overview")[2]))["measured"]:
        assert time.monotonic() < late
        time.sleep(0.05)
    assert told["runs"][0]["summary"]["tasks"] == 3


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/api/trial?run=0&row=9", 404),
        ("/api/trial?run=7&row=0", 404),
        ("/api/trial?run=0&row=-1", 400),
        ("/api/trial?run=../../etc&row=0", 400),
        ("/api/rows?run=0&first=1e9", 400),
        ("/api/rows?run=0", 400),
        ("/run.json", 404),
        ("/..%2f..%2fetc/passwd", 404),
    ],
)
def test_what_is_not_there_or_no_number_is_refused(url: str, path: str, code: int) -> None:
    assert ask(url + path)[0] == code


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_the_server_only_ever_reads(url: str, method: str) -> None:
    assert ask(f"{url}/api/state", method)[0] == 405


def test_a_page_of_another_site_learns_nothing(url: str) -> None:
    assert ask(f"{url}/api/rows?run=0&first=0", Host="evil.example")[0] == 403
    assert ask(f"{url}/api/state", Origin="http://evil.example")[0] == 403


def test_a_malformed_trial_is_said_and_the_others_are_still_shown(served: tuple[str, Path]) -> None:
    url, folder = served
    broken = played(50)
    broken["memory_reads"] = None
    add(folder, [broken, played(51)])
    ask(f"{url}/api/state")
    code, _, body = ask(f"{url}/api/trial?run=0&row=3")
    assert code == 409
    assert "malformed" in json.loads(body)["error"]["message"]
    assert ask(f"{url}/api/trial?run=0&row=4")[0] == 200


def test_many_ask_at_once_while_the_run_grows(served: tuple[str, Path]) -> None:
    url, folder = served
    failed: list[int] = []

    def asking() -> None:
        for row in range(3):
            for path in ("api/state", f"api/trial?run=0&row={row}", "api/overview", "api/rows?run=0&first=0"):
                if (code := ask(f"{url}/{path}")[0]) != 200:
                    failed.append(code)

    threads = [threading.Thread(target=asking) for _ in range(6)]
    for thread in threads:
        thread.start()
    for seed in range(100, 120):
        add(folder, [played(seed)])
    for thread in threads:
        thread.join()
    assert failed == []
    assert json.loads(ask(f"{url}/api/state")[2])["counts"] == [23]


# -- the commands -----------------------------------------------------------------------------------------------------


def test_report_writes_the_file_and_says_what_it_holds(cli: Cli, tmp_path: Path) -> None:
    run = written(tmp_path / "run", [played(seed) for seed in range(4)])
    told = cli("report", run, "-o", "out.html", "--most", 3, "--json").document
    assert (told["trials"], told["held"], told["runs"], told["problems"]) == (4, 3, ["run"], [])
    assert told["bytes"] == Path("out.html").stat().st_size


def test_report_says_what_of_a_log_it_left_out(cli: Cli, tmp_path: Path) -> None:
    run = written(tmp_path / "run", [played(1)])
    with (run / "trials.jsonl").open("ab") as file:
        file.write(b'{"torn')
    done = cli("report", run)
    assert done.code == 0
    assert "unfinished" in done.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "no run at nowhere: there is no such folder"),
        (["empty"], "holds no trial that can be shown yet"),
        (["run", "-o", "there.html"], "exists already; write over it with --force"),
        (["run", "-o", "run"], "is a folder; name a file"),
        (["run", "-o", "no/such/out.html"], "make no/such first"),
        (["run", "--policy", "run"], "holds no tokenizer.json"),
    ],
)
def test_report_refuses_in_one_line_before_any_work(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "run", [played(1)])
    written(tmp_path / "empty", [])
    Path("there.html").write_text("mine")
    done = cli("report", *arguments)
    assert done.code == 2
    assert message in done.error_line
    assert Path("there.html").read_text() == "mine"


def test_report_writes_over_a_file_when_told_to(cli: Cli, tmp_path: Path) -> None:
    run = written(tmp_path / "run", [played(1)])
    Path("there.html").write_text("old")
    assert cli("report", run, "-o", "there.html", "--force").code == 0
    assert Path("there.html").read_text() != "old"


@pytest.mark.parametrize("name", ["report", "view"])
def test_help_names_every_command_whose_folders_are_shown(cli: Cli, name: str) -> None:
    said = " ".join(cli(name, "--help").out.replace("│", " ").split())
    for command in ("collect", "eval", "train", "compare", "reproduce", "quickstart"):
        assert f"`{command}`" in said


def test_view_says_where_it_listens_and_ends_on_a_signal(tmp_path: Path) -> None:
    run = written(tmp_path / "run", [played(1)])
    process = started(tmp_path, "view", run, "--port", 0, "--json")
    assert process.stdout is not None
    told = json.loads(process.stdout.readline())
    assert told["trials"] == 1
    assert ask(told["url"])[0] == 200
    process.terminate()
    assert process.wait(timeout=20) == 0


def test_view_refuses_a_port_in_use(cli: Cli, tmp_path: Path, url: str) -> None:
    done = cli("view", written(tmp_path / "run", [played(1)]), "--port", url.rpartition(":")[2])
    assert done.code == 2
    assert "cannot listen on 127.0.0.1 port" in done.error_line
