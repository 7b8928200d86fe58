"""Full-text search over a catalogue: a tantivy index, built once per catalogue and shared by processes read-only.

What must stay true: hits are the best by BM25 over stemmed English words, ties in catalogue order, so the same query
finds the same products in every process. What an agent types is words, never query syntax: a query is taken apart by
the analyser that the index was built with, and nothing parses it.

An index lies in a folder named after the contents it was built from. It is built beside its place and moved there
whole, so a reader never sees half of one; where no folder can be written it is kept in memory.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
import unicodedata
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lamer_envs.errors import EnvError
from lamer_envs.webshop.catalogue import Catalogue, indexed_text

HITS = 50
"""Products a search returns at most."""

MAX_WORDS = 64
"""Distinct words of a query that are looked at."""

CACHE_VARIABLE = "LAMER_GRAPH_CACHE"
"""Environment variable that names the folder of indexes; without it, a folder in the user's cache."""

KEPT = 24
"""Indexes that are kept on disk; the one unused for longest goes first."""

_FORMAT = 1
_FIELD, _NUMBER, _ANALYSER = "text", "product", "shop"
_HEAP_BYTES = 300_000_000
_DRAFT, _DRAFT_SECONDS = "building-", 86_400


def require_tantivy() -> None:
    """Raises EnvError, with the fix, where tantivy is not installed."""
    if find_spec("tantivy") is None:
        raise EnvError("webshop needs the search engine tantivy, which is not installed: pip install tantivy")


def cache_folder() -> Path:
    """Where indexes are kept."""
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named).expanduser() / "webshop"
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "lamer-graph" / "webshop"


class SearchIndex:
    """`search(query)` gives positions in the catalogue. Safe to share between threads."""

    def __init__(self, index: Any, schema: Any) -> None:
        import tantivy

        self._make, self._schema = tantivy, schema
        self._analyser = _analyser()
        self._searcher = index.searcher()
        self._one_segment = self._searcher.num_segments <= 1
        self.search = lru_cache(maxsize=4096)(self._search)

    def _search(self, query: str) -> tuple[int, ...]:
        """Positions of the at most HITS best products, best first."""
        make = self._make
        words = list(dict.fromkeys(self._analyser.analyze(folded(query))))[:MAX_WORDS]
        if not words:
            return ()
        terms = [
            (make.Occur.Should, make.Query.term_query(self._schema, _FIELD, word, index_option="freq"))
            for word in words
        ]
        wanted = make.Query.boolean_query(terms)
        limit = HITS
        while True:
            hits = self._searcher.search(wanted, limit=limit, count=False).hits
            # tantivy breaks ties by the order of documents within a segment. With several segments the last ones
            # of equal score may be any, so as many are fetched as it takes to see all of them.
            if self._one_segment or len(hits) < limit or hits[HITS - 1][0] > hits[-1][0]:
                break
            limit *= 4
        numbers = self._searcher.fast_field_values(_NUMBER, [address for _, address in hits])
        ranked = sorted(zip(hits, numbers, strict=True), key=lambda pair: (-pair[0][0], pair[1]))
        return tuple(number for _, number in ranked[:HITS])


def open_index(catalogue: Catalogue) -> SearchIndex:
    """The index of a catalogue, from disk if any process built it before. Raises EnvError without tantivy."""
    require_tantivy()
    name = hashlib.blake2b(f"{_FORMAT} {version('tantivy')} {catalogue.key}".encode(), digest_size=12).hexdigest()
    place = cache_folder() / name
    found = _opened(place)
    if found is None:
        found = _built_on_disk(catalogue, place) or build_index(catalogue, None)
    with suppress(OSError):
        os.utime(place)  # marks it as used
    return found


def build_index(catalogue: Catalogue, folder: Path | None) -> SearchIndex:
    """Build the index in an empty folder, or in memory with None."""
    import tantivy

    schema = _schema()
    index = tantivy.Index(schema, path=None if folder is None else str(folder))
    index.register_tokenizer(_ANALYSER, _analyser())
    # One thread and a heap that holds a hundred thousand products: documents keep their order in one segment.
    writer = index.writer(heap_size=_HEAP_BYTES, num_threads=1)
    for number, text in _documents(catalogue):
        document = tantivy.Document()
        document.add_integer(_NUMBER, number)
        document.add_text(_FIELD, text)
        writer.add_document(document)
    writer.commit()
    writer.wait_merging_threads()
    index.reload()
    return SearchIndex(index, schema)


def _documents(catalogue: Catalogue) -> Iterable[tuple[int, str]]:
    return ((number, folded(indexed_text(catalogue.product(number)))) for number in range(len(catalogue)))


def folded(text: str) -> str:
    """The text without accents, so that `cafe` finds `café`; lone surrogates become question marks."""
    if text.isascii():
        return text
    plain = "".join(mark for mark in unicodedata.normalize("NFKD", text) if not unicodedata.combining(mark))
    return plain.encode("utf-8", "replace").decode("utf-8")


def _opened(place: Path) -> SearchIndex | None:
    import tantivy

    if not (place / "meta.json").is_file():
        return None
    try:
        index = tantivy.Index.open(str(place))
        index.config_reader("manual")
        index.reload()
        return SearchIndex(index, _schema())
    except (ValueError, OSError):
        shutil.rmtree(place, ignore_errors=True)  # damaged on disk; it is only a cache
        return None


def _built_on_disk(catalogue: Catalogue, place: Path) -> SearchIndex | None:
    """Build beside the place, then move there. None where nothing can be written."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=_DRAFT, dir=place.parent))
    except OSError:
        return None
    try:
        build_index(catalogue, draft)
        with suppress(OSError):  # another process was faster: its index is the same
            draft.rename(place)
        _prune(place.parent)
        return _opened(place)
    except (ValueError, OSError):  # the disk is full
        return None
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _prune(folder: Path) -> None:
    """Remove the indexes unused for longest, and drafts of processes that were killed. Processes that have an index
    open keep its mapped files."""
    with suppress(OSError):
        entries = [(entry.stat().st_mtime, entry) for entry in folder.iterdir() if entry.is_dir()]
        drafts = [(used, entry) for used, entry in entries if entry.name.startswith(_DRAFT)]
        kept = sorted((each for each in entries if each not in drafts), key=lambda each: -each[0])
        dead = [each for each in drafts if each[0] < time.time() - _DRAFT_SECONDS]
        for _, entry in kept[KEPT:] + dead:
            shutil.rmtree(entry, ignore_errors=True)


def _schema() -> Any:
    import tantivy

    builder = tantivy.SchemaBuilder()
    builder.add_integer_field(_NUMBER, fast=True)
    builder.add_text_field(_FIELD, tokenizer_name=_ANALYSER, index_option="freq")
    return builder.build()


def _analyser() -> Any:
    import tantivy

    steps = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
    for step in (
        tantivy.Filter.lowercase(),
        tantivy.Filter.stopword("english"),
        tantivy.Filter.stemmer("english"),
    ):
        steps = steps.filter(step)
    return steps.build()
