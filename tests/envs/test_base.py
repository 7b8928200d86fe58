"""What every environment gets from the protocol: splits that end, pictures for browsers."""

from __future__ import annotations

import io
import json
import os
import re
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from alfworld_problems import plain
from lamer_envs import make
from lamer_envs.errors import EnvParameterError, InstanceError


@pytest.mark.parametrize("spec", ["minesweeper:4x4-3", "sokoban", "alfworld", "webshop"])
def test_every_environment_draws_itself_for_a_browser_as_one_escaped_element(
    spec: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAMER_GRAPH_CACHE", str(tmp_path))
    env = make(spec)
    page = env.render_html(env.reset(3))
    assert re.fullmatch(r"<(\w+)[^>]*>.*</\1>\s*", page, flags=re.S)
    assert "<script" not in page
    assert "[/" not in page  # no terminal markup left


def test_an_environment_without_instances_of_a_split_says_so_instead_of_searching_for_ever() -> None:
    class Single(type(make("minesweeper:4x4-3"))):  # type: ignore[misc]
        def reset(self, seed: int) -> Any:
            return super().reset(0)

    env = Single(4, 3)
    own = env.split_of(env.reset(0))
    assert list(islice(env.seeds(own), 3)) == [0, 1, 2]
    other = next(split for split in env.splits if split != own)
    with pytest.raises(EnvParameterError, match="too few different instances"):
        next(env.seeds(other))


INSTANCES: dict[str, Any] = {
    "minesweeper:4x4-3": {"size": 4, "mines": [[2, 3]]},
    "sokoban": {"xsb": ["#####", "#@$.#", "#####"]},
    "alfworld": {"pddl_problem": plain()},
    "webshop:20": {"goal": 3},
}


@pytest.mark.parametrize("spec", INSTANCES)
@pytest.mark.parametrize("form", ["path", "json", "/etc/hostname", "", "a\0b", "../" * 400])
def test_text_given_as_an_instance_opens_no_file(
    spec: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAMER_GRAPH_CACHE", str(tmp_path))
    path = tmp_path / "instance.json"
    path.write_text(json.dumps(INSTANCES[spec]))
    env = make(spec)
    start = env.load(INSTANCES[spec])
    assert env.load(path) == start
    text = {"path": str(path), "json": json.dumps(INSTANCES[spec])}.get(form, form)

    def opened(*_args: Any, **_options: Any) -> Any:
        raise AssertionError("a file was opened")

    for module, name in ((io, "open"), (os, "open"), (os, "stat")):
        monkeypatch.setattr(module, name, opened)
    monkeypatch.setattr("builtins.open", opened)
    with pytest.raises(InstanceError) as caught:
        env.load(text)  # type: ignore[arg-type]
    monkeypatch.undo()
    message = str(caught.value)
    assert "an instance is a mapping such as {" in message
    assert "pathlib.Path" in message
    assert "\n" not in message
