"""What every environment gets from the protocol: splits that end, pictures for browsers."""

from __future__ import annotations

import re
from itertools import islice
from typing import Any

import pytest

from lamer_envs import make
from lamer_envs.errors import EnvParameterError


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
