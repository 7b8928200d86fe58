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
from lamer_envs import Env, make
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


def test_a_board_is_drawn_with_every_face_and_people_see_where_the_mines_are() -> None:
    env = make("minesweeper:4x4-3")
    state = env.reset(3)
    page = env.render_html(state)
    faces = env.observe(state).split()
    assert page.count('class="closed"') == faces.count("?")
    assert page.count('class="open"') == 16 - faces.count("?")
    for number in "12345678":
        assert page.count(f'class="n{number}"') == faces.count(number)
    assert page.count('class="hidden"') == 3
    mine = env.mine_cells(state)[0]  # type: ignore[attr-defined]
    after = env.render_html(env.step(state, str(mine)).state)
    assert (after.count('class="hit"'), after.count('class="hidden"')) == (1, 2)


def test_a_room_is_drawn_with_its_pieces_and_people_see_where_the_pits_are() -> None:
    env = make("sokoban")
    state = env.load({"xsb": ["######", "#@-$.#", "#-*--#", "######"], "pits": [[2, 3]]})
    page = env.render_html(state)
    assert [page.count(f'class="{name}"') for name in ("wall", "box", "home", "target", "player", "pit")] == [
        16, 1, 1, 2, 1, 1,
    ]  # fmt: skip


def test_a_household_is_drawn_as_places_and_marks_where_one_stands_and_what_is_shut() -> None:
    env = make("alfworld")
    state = env.reset(3)
    there = next(action for action in env.admissible(state) if action.startswith("go to"))
    page = env.render_html(env.step(state, there).state)
    place = re.search(r'<div class="place here[^"]*"><b>([^<]*)</b>', page)
    assert place is not None
    assert there == f"go to {place[1]}"
    assert page.count("<i>shut</i>") == len(re.findall(r'class="place[^"]*shut"', page)) > 0


def test_an_environment_that_draws_nothing_shows_what_it_observes_as_text() -> None:
    class Plain(type(make("minesweeper:4x4-3"))):  # type: ignore[misc]
        render_html = Env.render_html

        def observe(self, state: Any) -> str:
            return "<b>&\u202e\x1b"

    env = Plain(4, 3)
    assert env.render_html(env.reset(0)) == '<pre class="observation">&lt;b&gt;&amp;\ufffd\ufffd</pre>'


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
