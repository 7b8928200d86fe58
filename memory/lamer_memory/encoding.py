"""How stores write records down: digests of namespaces and fields, a record without its text as JSON, write order.

What must stay true: distinct namespaces and values have distinct digests however their parts are joined or escaped;
a record decodes to an equal one, types included; and of two writes the later has the higher number even where the
clock ran backwards in between, also across a restart.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache
from hashlib import blake2b

from lamer_memory.base import MemoryRecord, MetadataValue, Namespace
from lamer_memory.errors import MemoryBackendError
from lamer_memory.recall import ABOUT_KEY, TRIAL_KEY


def digest(*parts: str) -> str:
    """32 hex digits that stand for exactly these parts: each is preceded by its length, so no joining is ambiguous."""
    raws = [part.encode("utf-8", "surrogatepass") for part in parts]
    return blake2b(b"".join(b"%d:%b" % (len(raw), raw) for raw in raws), digest_size=16).hexdigest()


@lru_cache(maxsize=1024)
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


def field_digest(name: str, value: MetadataValue) -> str:
    """Stands for a field that has this value; two are equal exactly where Python's `==` says that the values are."""
    if value is None:
        return digest("field", name, "none")
    if isinstance(value, str):
        return digest("field", name, "text", value)
    number = int(value) if isinstance(value, int) or value.is_integer() else value
    return digest("field", name, "number", repr(number))


def encode(record: MemoryRecord, *, nul: bool = True, whole: bool = False) -> str:
    """The record as ASCII JSON, which every store, transport and database takes; without the text unless it is to be
    `whole`, see `storable`."""
    fields = record.to_json()
    if not whole and storable(record.text, nul=nul) == record.text:
        del fields["text"]
    return json.dumps(fields, sort_keys=True)


def decode(head: str, text: str, where: str) -> MemoryRecord:
    """The inverse of `encode`; raises MemoryBackendError, naming `where`, for what `encode` did not write."""
    try:
        return MemoryRecord.from_json({"text": text, **json.loads(head)})
    except (ValueError, TypeError) as error:
        raise MemoryBackendError(
            f"{where} holds a record that cannot be read ({error}); was it written by us?"
        ) from None


def storable(text: str, *, nul: bool = True) -> str:
    """The text as a database takes it: a lone surrogate (and NUL unless `nul`) becomes a replacement character.

    Where that changes the text, `encode` keeps the original.
    """
    safe = text.encode("utf-8", "replace").decode()
    return safe if nul else safe.replace("\0", "\N{REPLACEMENT CHARACTER}")


def about(record: MemoryRecord) -> str:
    """What a query is compared with: what the record says it is about, else its text."""
    subject = record.metadata.get(ABOUT_KEY)
    return subject if isinstance(subject, str) and subject else record.text


def in_own_namespace(namespace: Namespace, record: MemoryRecord) -> bool:
    """Whether the record lies where `trial_namespace` puts a trial's own under scope "trial": nobody else looks there,
    and the trial takes all that there is, so a vector would be for nothing."""
    return bool(namespace) and namespace[-1] == record.metadata.get(TRIAL_KEY)


def dump_namespace(namespace: Namespace) -> str:
    return json.dumps(namespace)


def load_namespace(name: str) -> Namespace:
    return tuple(json.loads(name))


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

    def seen(self, numbers: Iterable[int]) -> None:
        """Numbers that other writers, or earlier runs, gave."""
        highest = max(numbers, default=0)
        with self._lock:
            self._last = max(self._last, highest)

    def now(self) -> int:
        return self._now()

    def take(self, count: int) -> range:
        """The next `count` numbers."""
        with self._lock:
            first = max(self._last + 1, self._now())
            self._last = first + count - 1
            return range(first, first + count)
