"""Shops: a catalogue with its goals and its index, shared by all environments of one catalogue.

What must stay true: however many environments and threads ask, a catalogue is read once and its index opened once, for
as long as some environment uses it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Lock
from typing import Any
from weakref import WeakValueDictionary

from lamer_envs.errors import EnvParameterError
from lamer_envs.webshop.catalogue import Catalogue, GeneratedCatalogue
from lamer_envs.webshop.goals import GeneratedGoals, Goals, HumanGoals, Source, SyntheticGoals
from lamer_envs.webshop.search import SearchIndex, open_index

INLINE = "inline-"
"""Where shops made from data in memory are: this and a digest of the data."""


class Shop:
    """A catalogue with its goals and its index: what all environments of one catalogue share."""

    def __init__(self, place: str, catalogue: Catalogue, goals: str, data: object) -> None:
        self.place, self.catalogue, self.data = place, catalogue, data
        source: Source
        if isinstance(catalogue, GeneratedCatalogue) and goals == "human":
            source = GeneratedGoals(catalogue)
        else:
            source = HumanGoals(catalogue) if goals == "human" else SyntheticGoals(catalogue)
        self.goals = Goals(source, catalogue)
        self._lock = Lock()
        self._index: SearchIndex | None = None

    @property
    def index(self) -> SearchIndex:
        """The search index, opened or built when it is first asked for, however many threads ask."""
        if self._index is None:
            with self._lock:
                self._index = self._index or open_index(self.catalogue)
        return self._index

    def search(self, query: str) -> tuple[int, ...]:
        """Positions of the at most 50 products found, best first."""
        found: tuple[int, ...] = self.index.search(query)
        return found


_SHOPS: WeakValueDictionary[str, Shop] = WeakValueDictionary()
_SHOPS_LOCK = Lock()


def shared_shop(where: str, place: str, catalogue: Callable[[], Catalogue], goals: str, data: object) -> Shop:
    """The shop known as `where`, made from what `catalogue` gives if there is none."""
    with _SHOPS_LOCK:
        shop = _SHOPS.get(where)
        if shop is None:
            shop = _SHOPS[where] = Shop(place, catalogue(), goals, data)
    return shop


def data_in_memory(place: str) -> object:
    """The data of a shop that is in use, by its place. Raises EnvParameterError."""
    alive = next((shop for shop in list(_SHOPS.values()) if shop.place == place), None)
    if alive is None:
        raise EnvParameterError(
            f"the shop '{place}' was made from data in memory; make it again with make('webshop', data=...)"
        )
    return alive.data


def has_people(data: str | Path | Mapping[str, Any]) -> bool:
    """Folders are expected to have human instructions: one without is reported, not played with other goals."""
    return not isinstance(data, Mapping) or bool(data.get("human_instructions"))


def place_of(data: str | Path | Mapping[str, Any]) -> str:
    if not isinstance(data, Mapping):
        if not isinstance(data, str | Path) or not str(data):
            raise EnvParameterError(f"data must be a folder or a mapping, not {type(data).__name__}")
        return str(data)
    try:
        text = json.dumps(data, sort_keys=True)
    except (TypeError, ValueError, RecursionError) as error:
        raise EnvParameterError(f"WebShop data must be plain JSON values: {error}") from None
    return INLINE + hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def stamp(data: str | Path | Mapping[str, Any]) -> str:
    """Of a folder: its files' sizes and times, so that changed files are read again."""
    if isinstance(data, Mapping):
        return ""
    files = sorted(Path(data).expanduser().glob("*.json"))
    stats = [(file.name, file.stat()) for file in files if file.is_file()]
    return " ".join(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats)
