"""README.md and docs/ say what is true: pictures, paths, commands, fields, messages and defaults are the code's."""

from __future__ import annotations

import ast
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from functools import cache
from itertools import pairwise
from pathlib import Path

import orjson
import pytest
import yaml

from command_line import called, leaf_commands
from doc_blocks import GENERATED, PAGES, blocks_of, commands_of, is_setting, name_of
from lamer_graph.runlog import schema
from lamer_trainers.presets import PRESETS
from places import ROOT

EXAMPLES = ROOT / "examples"
DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text()
# What a command printed is of its time.
WRITTEN = {page: GENERATED.sub("", page.read_text()) for page in [*PAGES, EXAMPLES / "RESULTS.md"]}
each_document = pytest.mark.parametrize("document", WRITTEN, ids=name_of)


def test_the_readme_is_read_in_a_minute() -> None:
    assert len(README.encode()) < 6000
    ten = next(block for block in blocks_of(ROOT / "README.md") if "create_lamer_agent" in block.text)
    assert len([line for line in ten.text.splitlines() if line.strip()]) <= 10


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = ROOT / "scripts"
    monkeypatch.syspath_prepend(str(folder))
    return folder


def test_the_figures_and_the_index_are_what_the_code_draws(scripts: Path) -> None:
    for name, draw in runpy.run_path(str(scripts / "figures.py"))["FIGURES"].items():
        assert draw() == (DOCS / "figures" / f"{name}.svg").read_text(), f"{name}: run `make readme`"
    assert runpy.run_path(str(scripts / "update_readme.py"))["index"]() == (DOCS / "llms.txt").read_text(), (
        "run `make readme`"
    )


def test_every_page_is_in_the_navigation() -> None:
    said = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2]
    for page in DOCS.rglob("*.md"):
        assert page.relative_to(DOCS).as_posix() in said


def test_the_transcript_has_the_words_that_the_quickstart_says_now() -> None:
    printed = " ".join((DOCS / "quickstart.md").read_text().split())
    source = (ROOT / "lamer_graph" / "cli" / "quickstart.py").read_text()
    said = [text for call in re.findall(r"ui\.print\((.*)\)", source) for text in re.findall(r'f?"([^"]*)"', call)]
    plain = [re.sub(r"\[/?[a-z]*\]|\\n", "", text) for text in said]
    parts = [part.strip() for text in plain for part in re.split(r"\{[^}]*\}", text)]
    told = [part for part in parts if len(part) > 8]
    assert len(told) > 4
    lacking = [part for part in told if part not in printed and "in this process (" not in part]  # that is --local
    assert lacking == [], "run `make transcript`"


def test_the_prompt_is_what_is_asked_on_that_board() -> None:
    from lamer_envs import make
    from lamer_graph.trial.prompts import PromptBuilder, Remembered, Turn, View

    env = make("minesweeper:4x4-3")
    state, turns = env.reset(1), []
    assert "(3, 1)" in [str(cell) for cell in env.mine_cells(state)]  # type: ignore[attr-defined]
    for action in ("(1, 4)", "(2, 1)"):
        step = env.step(state, action)
        turns.append(Turn(env.observe(state), action, env.outcome(state, action, step)))
        state = step.state
    builder = PromptBuilder(env)
    memory = [Remembered("reflection", "There is a mine at (3, 1). Do not open it again.", 1)]
    messages = builder.act(View(2, env.observe(state), turns, memory, builder.actions_now(state)))
    assert f"```text\n{messages[1]['content']}\n```" in (DOCS / "concepts" / "prompts.md").read_text()


# -- paths and links --------------------------------------------------------------------------------------------------

NAMED = re.compile(r"\b(?:tests|bench|examples|scripts|constraints|lamer_graph|memory|envs|trainers)/[\w./-]*\w")


@each_document
def test_every_path_that_a_document_links_or_names_exists(document: Path) -> None:
    text = WRITTEN[document]
    links = {document.parent / link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link}
    named = {ROOT / name for name in NAMED.findall(text) if "/site-packages/" not in name}
    told = {path for path in links | named if not path.exists()}
    policies = EXAMPLES  # a page that stands in examples/ names its neighbours by themselves
    assert [path for path in told if not (policies / path.relative_to(ROOT)).exists()] == []


@each_document
def test_every_link_to_a_heading_finds_it(document: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s]*\.md)?#([^)]+)\)", WRITTEN[document]):
        page = (document.parent / target).resolve() if target else document
        headings = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert anchor in anchors, f"{target}#{anchor}"


# -- commands ---------------------------------------------------------------------------------------------------------

ELSEWHERE = {"accelerate", "cd", "cp", "curl", "docker", "make", "pip", "python", "source", ".venv/bin/python"}


def written_commands(document: Path) -> list[list[str]]:
    """The words of every `lamer-graph ..` in a document's prose and consoles."""
    consoles = [said.command for block in blocks_of(document) if block.kind == "console" for said in commands_of(block)]
    prose = re.sub(r"^ *```.*?^ *```$", "", WRITTEN[document], flags=re.MULTILINE | re.DOTALL)
    lines = [*consoles, *re.findall(r"`(lamer-graph\s[^`]+)`", prose)]
    assert {shlex.split(line)[0] for line in lines} <= {"lamer-graph", *ELSEWHERE}
    return [shlex.split(line)[1:] for line in lines if line.startswith("lamer-graph ")]


@each_document
def test_every_command_that_a_document_names_is_there_with_its_options_presets_and_settings(document: Path) -> None:
    groups = {name.split()[0] for name in leaf_commands() if " " in name}
    for words in written_commands(document):
        name, given = called([word.strip("[]") for word in words])
        if (words[0] in groups and len(words) == 1) or words[0] in ("--help", "--install-completion"):
            continue
        assert name, words
        known = {option for parameter in leaf_commands()[name].params for option in parameter.opts} | {"--help"}
        own = given[: given.index("--")] if "--" in given else given
        assert {word for word in own if word.startswith("--")} <= known, words
        for option, value in pairwise(given):
            assert option != "--preset" or value in PRESETS, words
        if name == "train":
            for setting in (word.partition("=")[0] for word in given if "=" in word):
                assert is_setting(setting), words
    benchmarks = {path.stem.removeprefix("bench_") for path in (ROOT / "bench").glob("bench_*.py")}
    for names in re.findall(r"python -m bench((?: [a-z_]+)*)", WRITTEN[document]):
        assert set(names.split()) <= benchmarks


def test_every_command_of_a_console_is_taken_by_the_command_line() -> None:
    """With its values, not its names alone."""
    for page in PAGES:
        for block in (one for one in blocks_of(page) if one.kind == "console"):
            for said in commands_of(block):
                words = shlex.split(said.command)
                name, given = called(words[1:]) if words[0] == "lamer-graph" else ("", [])
                if name and "--help" not in given:
                    leaf_commands()[name].make_context(name, given)


def test_documents_name_enough_commands_and_every_one_of_them_is_told() -> None:
    told = [called(words)[0] for document in WRITTEN for words in written_commands(document)]
    assert len(told) > 60
    page = (DOCS / "command-line.md").read_text()
    for name in leaf_commands():
        group, _, leaf = name.partition(" ")
        assert re.search(rf"`lamer-graph {group}\b", page), name
        assert not leaf or re.search(rf"\b{leaf}\b", page), name


@each_document
def test_every_setting_that_a_document_names_is_one_of_a_run_file(document: Path) -> None:
    sections = "collect|optimise|lora|server|distil|remember"
    named = re.findall(rf"`((?:{sections})\.[a-z_]+)(?=[`=:])", WRITTEN[document])
    assert [name for name in named if not is_setting(name)] == []


@each_document
def test_every_make_target_that_a_document_names_exists(document: Path) -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"(?:`|\$ )make ([a-z0-9-]+)", WRITTEN[document])) <= targets


# -- what pages say of the code ----------------------------------------------------------------------------------------


@cache
def strings() -> list[str]:
    """Every text in the packages, `..` for what is put in."""
    found = []
    for folder in ("lamer_graph", "memory/lamer_memory", "envs/lamer_envs", "trainers/lamer_trainers"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.JoinedStr):
                    parts = [part.value if isinstance(part, ast.Constant) else ".." for part in node.values]
                    found.append("".join(str(part) for part in parts))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return found


NOT_SHOWN = {
    "ABOUT_KEY",
    "CUT_MARK",
    "MAX_ACTION_CHARS",
    "Contents",
    "Kind",
    "Lessons",
    "MetadataValue",
    "Namespace",
    "Outcomes",
    "Scope",
    "Select",
    "State",
    "matches",
}
"""Numbers and type aliases, which their users' signatures say."""


def symptoms() -> list[str]:
    text = (DOCS / "troubleshooting.md").read_text()
    return re.findall(r"^### `(.*)`$", text, flags=re.MULTILINE)


@pytest.mark.parametrize("message", symptoms())
def test_a_symptom_is_a_message_that_the_code_prints(message: str) -> None:
    parts = [part.strip() for part in message.split("..") if part.strip()]
    pattern = re.compile(".*".join(re.escape(part) for part in parts))
    assert any(pattern.search(text) for text in strings())


def test_the_log_page_has_every_field_and_no_other() -> None:
    text = (DOCS / "log.md").read_text()
    for model, table in re.findall(r"<!-- fields: (\w+) -->\n\n((?:\|.*\n)+)", text):
        told = {name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1])}
        assert told == set(getattr(schema, model).model_fields), model
    assert len(re.findall(r"<!-- fields:", text)) == 5


def test_the_papers_defaults_are_those_of_the_presets_for_it() -> None:
    paper = orjson.loads((ROOT / "trainers" / "lamer_trainers" / "reproduce" / "paper.json").read_bytes())
    assert paper
    preset = PRESETS["minesweeper-qwen3-4b"]
    rows = re.findall(r"^\| .* \| (.*) \| `(optimise\.\w+)` \|$", (DOCS / "paper.md").read_text(), flags=re.MULTILINE)
    assert len(rows) == 5
    for value, setting in rows:
        assert preset["optimise"][setting.removeprefix("optimise.")] == float(value), setting


@each_document
def test_every_function_that_a_document_names_by_its_module_is_there(document: Path) -> None:
    from pydoc import locate

    names = set(re.findall(r"`((?:lamer_graph|lamer_memory|lamer_envs|lamer_trainers)(?:\.\w+)+)", WRITTEN[document]))
    names |= set(re.findall(r"^::: ([\w.]+)$", WRITTEN[document], flags=re.MULTILINE))
    assert [name for name in names if locate(name) is None and not name.endswith((".errors", ".envs", ".memory"))] == []


def test_the_reference_has_every_public_name() -> None:
    import lamer_envs
    import lamer_graph
    import lamer_memory
    import lamer_trainers

    pages = "".join(page.read_text() for page in (DOCS / "reference").glob("*.md"))
    told = set(re.findall(r"^::: ([\w.]+)$", pages, flags=re.MULTILINE))
    for package in (lamer_graph, lamer_memory, lamer_envs, lamer_trainers):
        for name in package.__all__:
            home = getattr(getattr(package, name), "__module__", "")
            shown = home in told or any(one.endswith(f".{name}") for one in told)
            assert shown or name in NOT_SHOWN, f"{package.__name__}.{name} (of {home})"


def test_the_page_of_packages_has_every_extra_of_a_user() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    rows = re.findall(
        r"^\| (`.*?) \|", (DOCS / "packages.md").read_text().partition("## Extras")[2], flags=re.MULTILINE
    )
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set(extras) - {"test", "dev", "all"}


def test_the_citation_can_be_read_and_names_the_paper() -> None:
    said = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert said["references"][0]["identifiers"][0]["value"] == "arXiv:2512.16848"
    assert said["license"] == "Apache-2.0"


@pytest.mark.slow
def test_the_pages_are_built_without_a_warning_and_load_nothing_from_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    for page in tmp_path.rglob("*.html"):
        loaded = re.findall(r"<(?:script|img|link)\b[^>]*(?:src|href)=\"?(https?:[^\" >]*)", page.read_text())
        assert [one for one in loaded if "canonical" not in one] == [], page
    assert (tmp_path / "llms.txt").is_file()
