"""What an environment's states look like: a logged trial played again, each state drawn by the environment's own hand.

What must stay true: a drawing is of the state that was logged (its observation is compared; where it differs nothing is
drawn from there on), and reaches the page as a tree of known elements and attributes, built by name. Whatever an
environment of anybody's draws, there is no script, no link, no address and no style in it.
"""

from __future__ import annotations

import re
from functools import lru_cache
from html.parser import HTMLParser
from typing import Any

from lamer_envs import Env, make
from lamer_graph.errors import LamerError
from lamer_graph.runlog.lines import APPLICATION
from lamer_graph.trial.states import Json
from lamer_graph.trial.tasks import start_of

Tree = list[Any]
"""[tag, {attribute: value}, [tree or text, ..]]"""

TEXT = ("section", "div", "p", "span", "b", "i", "em", "strong", "small", "u", "s", "code", "pre", "br", "button")
TABLES = ("ul", "ol", "li", "dl", "dt", "dd", "table", "thead", "tbody", "tr", "td", "th", "h4", "h5")
SHAPES = ("svg", "g", "rect", "circle", "ellipse", "line", "path", "polyline", "polygon", "text", "tspan", "title")
ELEMENTS = frozenset({*TEXT, *TABLES, *SHAPES})
PLACES = ("x", "y", "x1", "y1", "x2", "y2", "cx", "cy", "r", "rx", "ry", "dx", "dy", "d", "width", "height", "points")
LOOKS = ("fill", "stroke", "stroke-width", "stroke-linecap", "opacity", "font-size", "font-family", "font-weight")
OTHERS = ("class", "text-anchor", "transform", "viewbox", "role", "colspan", "rowspan")
ATTRIBUTES = frozenset({*PLACES, *LOOKS, *OTHERS})
SPELT = {"viewbox": "viewBox"}
"""Attributes that are not in lower case: a parser of HTML forgets."""
_EMPTY = frozenset({"br"})
_VALUE = re.compile(r"[\w #.,%()+\-]*", re.ASCII)
MOST_NODES = 6000
MOST_OF_TRIAL = 120_000
"""Elements of all the drawings of a trial; later states are shown as they were observed."""
MAX_DEPTH = 40
MAX_TEXT = 4000


class _Builder(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root: Tree = ["div", {}, []]
        self._open: list[Tree] = [self.root]
        self._skipped: list[str] = []
        self._left = MOST_NODES

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._skipped or tag not in ELEMENTS or len(self._open) > MAX_DEPTH or self._left <= 0:
            if tag not in ("img", "input", "link", "meta", "hr", "br", "source", "base", "embed"):  # these have no end
                self._skipped.append(tag)
            return
        self._left -= 1
        kept = {SPELT.get(key, key): value for key, value in attrs if value and _is_kept(key, value)}
        node: Tree = [tag, kept, []]
        self._open[-1][2].append(node)
        if tag not in _EMPTY:
            self._open.append(node)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _EMPTY:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._skipped:
            if tag in self._skipped:
                del self._skipped[len(self._skipped) - 1 - self._skipped[::-1].index(tag) :]
            return
        names = [node[0] for node in self._open[1:]]
        if tag in names:
            del self._open[len(names) - names[::-1].index(tag) :]

    def handle_data(self, data: str) -> None:
        if not self._skipped and self._left > 0:
            self._left -= 1
            self._open[-1][2].append(data[:MAX_TEXT])


def _is_kept(key: str, value: str) -> bool:
    return key in ATTRIBUTES and len(value) < 2000 and "url" not in value and bool(_VALUE.fullmatch(value))


def tree_of(drawing: str) -> Tree | None:
    """A drawing as a tree of ELEMENTS with ATTRIBUTES, all else left out; None where nothing is left."""
    builder = _Builder()
    builder.feed(drawing)
    builder.close()
    children = builder.root[2]
    if len(children) == 1 and isinstance(children[0], list):
        found: Tree = children[0]
        return found
    return builder.root if children else None


class Album:
    """The drawings of a trial, each once: `places[e][t]` is the one before turn t of episode e, or after the last."""

    def __init__(self) -> None:
        self.drawings: list[Tree] = []
        self.places: list[list[int | None]] = []
        self._known: dict[str, int | None] = {}
        self._left = MOST_OF_TRIAL

    def add(self, drawing: str) -> int | None:
        if drawing not in self._known:
            self._left -= drawing.count("<") // 2
            tree = tree_of(drawing) if self._left > 0 else None
            self._known[drawing] = None if tree is None else len(self.drawings)
            if tree is not None:
                self.drawings.append(tree)
        return self._known[drawing]


def album_of(trial: Json, env: Env | None) -> Album:
    """The drawings of a trial; none where the environment is not here, or plays otherwise than it was logged."""
    album = Album()
    for episode in trial["episodes"]:
        album.places.append([None] * (len(episode["turns"]) + 1))
    if env is None:
        return album
    try:
        start = start_of(env, trial["task"])
        for number, episode in enumerate(trial["episodes"]):
            _draw(env, start, episode["turns"], album, album.places[number])
    except Exception:  # an environment of anybody's, asked about states that it may never have seen
        return album
    return album


def _draw(env: Env, start: Json, turns: list[Json], album: Album, places: list[int | None]) -> None:
    state = start
    for at, turn in enumerate(turns):
        if env.observe(state) != turn["observation"]:
            return
        places[at] = album.add(env.render_html(state))
        state = env.step(state, turn["action"] or "").state
    places[len(turns)] = album.add(env.render_html(state))


@lru_cache(maxsize=16)
def environment(spec: str) -> Env | None:
    """The environment of a logged trial where it is installed here. `make` imports nothing that a spec names."""
    if spec.startswith(APPLICATION) or spec.startswith("task:"):
        return None
    try:
        return make(spec)
    except LamerError:
        return None
