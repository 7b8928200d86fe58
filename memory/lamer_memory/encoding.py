"""How stores write records down: digests of namespaces and fields, a record without its text as JSON, write order.

What must stay true: distinct namespaces and values have distinct digests however their parts are joined or escaped;
a record decodes to an equal one, types included; and of two writes the later has the higher number even where the
clock ran backwards in between, also across a restart.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from hashlib import blake2b

from lamer_memory.base import MemoryRecord, Namespace
from lamer_memory.errors import MemoryBackendError
from lamer_memory.recall import TRIAL_KEY


def digest(*parts: str) -> str:
    """32 hex digits that stand for exactly these parts: each is preceded by its length, so no joining is ambiguous."""
    state = blake2b(digest_size=16)
    for part in parts:
        raw = part.encode("utf-8", "surrogatepass")
        state.update(b"%d:" % len(raw))
        state.update(raw)
    return state.hexdigest()


def namespace_digest(namespace: Namespace) -> str:
    return digest("namespace", *namespace)


def record_digest(namespace: Namespace, key: str) -> str:
    """The deterministic id of a record in a store that has one id space for all namespaces."""
    return digest("record", namespace_digest(namespace), key)


def task_digest(namespace: Namespace, task_id: str) -> str:
    return digest("task", namespace_digest(namespace), task_id)


def trial_digest(namespace: Namespace, trial_id: object) -> str:
    """Stands for the trial that a record's metadata names; anything but a text there is no trial."""
    return digest("trial", namespace_digest(namespace), trial_id) if isinstance(trial_id, str) else ""


def trial_of(record: MemoryRecord) -> object:
    return record.metadata.get(TRIAL_KEY)


def encode(record: MemoryRecord) -> str:
    """The record without its text as ASCII JSON, which every store, transport and database takes."""
    return json.dumps({name: value for name, value in record.to_json().items() if name != "text"}, sort_keys=True)


def decode(head: str, text: str, where: str) -> MemoryRecord:
    """The inverse of `encode`; raises MemoryBackendError, naming `where`, for what `encode` did not write."""
    try:
        return MemoryRecord.from_json({**json.loads(head), "text": text})
    except (ValueError, TypeError) as error:
        raise MemoryBackendError(f"{where} holds a record that cannot be read ({error}); was it written by us?") from None


def storable(text: str) -> bool:
    """Whether the text is valid Unicode; a lone surrogate is not, and no database or transport takes it as it is."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def detached(record: MemoryRecord) -> MemoryRecord:
    """The record with metadata of its own, so that what the caller does with theirs does not reach us."""
    return replace(record, metadata=dict(record.metadata))


def now_us() -> int:
    return time.time_ns() // 1_000


class WriteOrder:
    """Numbers for writes: microseconds of the clock, but always higher than every number given or seen before.

    A hybrid logical clock (Kulkarni et al. 2014): near the time, so that writers of several processes interleave, and
    never backwards, so that an adjusted clock cannot make a new record older than what it replaces.
    """

    def __init__(self, now: Callable[[], int] = now_us) -> None:
        self._now = now
        self._last = 0
        self._lock = threading.Lock()

    def seen(self, number: int) -> None:
        """A number that another writer gave."""
        with self._lock:
            self._last = max(self._last, number)

    def take(self, count: int) -> range:
        """The next `count` numbers."""
        with self._lock:
            first = max(self._last + 1, self._now())
            self._last = first + count - 1
            return range(first, first + count)
