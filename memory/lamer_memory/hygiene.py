"""Keeping a store useful as it grows: duplicates, a budget, statistics, export and import.

What must stay true: what is forgotten follows rules that are stated here and nowhere else, and the pure functions
decide everything: of equal or nearly equal texts of one kind about the same (a query finds a record by what it is
about, so the same words about another task are no duplicate) the one whose worth is known best stays, else the
successful one, else the newest; over the budget what harms goes first, then the oldest unsuccessful record, a
successful one only when no unsuccessful one is left, and last what was measured to help, which may fill half of it. An
import of an export gives the same records in the same order.

Nearly equal: the sets of three-word runs overlap by a Jaccard index of at least `near` (Broder 1997), found exactly
with prefix filtering (Chaudhuri et al. 2006).
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import IO, Any, NamedTuple, Protocol, cast, get_args

from lamer_memory.base import EVERYTHING, Kind, MemoryBackend, MemoryRecord, MetadataValue, Namespace, ScoredRecord
from lamer_memory.errors import MemoryBackendError, MemoryConfigError, MemoryImportError
from lamer_memory.ledger import LEDGER, drop_entries, is_ledger
from lamer_memory.recall import ABOUT_KEY
from lamer_memory.utility import OVERALL, UNKNOWN, Value, prior_of, value_of

IMPORT_BATCH = 200
MAX_LINE_CHARS = 64_000_000
"""Longest line that an import reads: some times the longest text that anything here writes."""
EXPORT_SCHEMA = 1
SHINGLE_WORDS = 3
Subject = tuple[Kind, MetadataValue]


class ListsNamespaces(Protocol):
    """What a backend needs beyond the protocol so that a whole store can be looked after."""

    def namespaces(self) -> list[Namespace]: ...

    def search(self, namespace: Namespace, *, limit: int = 10) -> list[ScoredRecord]: ...


@dataclass(frozen=True, slots=True)
class NamespaceStats:
    """What a namespace holds."""

    namespace: Namespace
    records: int
    reflections: int
    trajectories: int
    successes: int
    tasks: int
    chars: int
    valued: int
    """Records of which a value was measured, and `harmful` those that are below zero with confidence."""
    harmful: int

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "namespace": list(self.namespace)}


@dataclass(frozen=True, slots=True)
class Pruned:
    """Keys to forget, or forgotten, in a namespace, by the rule that chose them."""

    namespace: Namespace
    kept: int
    duplicates: tuple[str, ...]
    near_duplicates: tuple[str, ...]
    evicted: tuple[str, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        return (*self.duplicates, *self.near_duplicates, *self.evicted)


# -- rules ------------------------------------------------------------------------------------------------------------


def duplicates(records: Sequence[MemoryRecord]) -> list[str]:
    """Keys of all but one of the records with the same kind, text and subject. `records` come newest first."""
    ranked = _best_first(records)
    seen: set[tuple[Subject, str]] = set()
    dropped = []
    for record in ranked:
        content = (_subject(record), record.text)
        if content in seen:
            dropped.append(record.key)
        seen.add(content)
    return dropped


def near_duplicates(records: Sequence[MemoryRecord], near: float = 0.9) -> list[str]:
    """Keys of records that are nearly equal to a better or newer one that stays. `records` come newest first.

    Raises MemoryConfigError unless 0 < near <= 1.
    """
    if not 0 < near <= 1:
        raise MemoryConfigError(f"near-duplicates overlap by more than 0 and at most 1, not {near!r}")
    ranked = _best_first(records)
    sets = [_shingles(record.text) for record in ranked]
    frequency = Counter(shingle for found in sets for shingle in found)
    kept_with: dict[tuple[Subject, tuple[str, ...]], list[int]] = defaultdict(list)
    dropped = []
    for place, record in enumerate(ranked):
        mine = sets[place]
        # Two sets that overlap enough share one of their rarest members: all but near x size of them, plus one.
        rare = sorted(mine, key=lambda shingle: (frequency[shingle], shingle))
        rare = rare[: len(rare) - math.ceil(near * len(rare)) + 1]
        candidates = {other for shingle in rare for other in kept_with[_subject(record), shingle]}
        if any(_jaccard(mine, sets[other]) >= near for other in candidates):
            dropped.append(record.key)
        else:
            for shingle in rare:
                kept_with[_subject(record), shingle].append(place)
    return dropped


def evictions(records: Sequence[MemoryRecord], budget: int) -> list[str]:
    """Keys of what goes so that `budget` records stay: first what harms (`utility.Value.harms`), then the oldest
    unsuccessful, then the successful. What helps most goes last, as far as it fills half the budget: the other half is
    for what is new, or nothing would ever be measured again. `records` come newest first."""
    if not isinstance(budget, int) or isinstance(budget, bool) or budget < 0:
        raise MemoryConfigError(f"a budget is a whole number of at least 0, not {budget!r}")
    order = list(reversed(records))
    values = {record.key: value_of(record) for record in order}
    helpful = sorted((key for key, value in values.items() if value.mean > 0), key=lambda key: -values[key].mean)
    kept = set(helpful[: (budget + 1) // 2])
    order.sort(key=lambda one: (one.key in kept, not values[one.key].harms, one.success))
    return [record.key for record in order[: max(0, len(order) - budget)]]


def plan(
    namespace: Namespace, records: Sequence[MemoryRecord], *, budget: int | None = None, near: float | None = 0.9
) -> Pruned:
    """What pruning would forget of these records (newest first): duplicates, then near-duplicates, then the surplus."""
    equal = duplicates(records)
    rest = _without(records, equal)
    similar = [] if near is None else near_duplicates(rest, near)
    rest = _without(rest, similar)
    surplus = [] if budget is None else evictions(rest, budget)
    return Pruned(namespace, len(rest) - len(surplus), tuple(equal), tuple(similar), tuple(surplus))


def _subject(record: MemoryRecord) -> Subject:
    """Only records of one subject can be duplicates."""
    return record.kind, record.metadata.get(ABOUT_KEY)


def _best_first(records: Sequence[MemoryRecord]) -> list[MemoryRecord]:
    """What is known best in front, of equals what was successful."""
    return sorted(records, key=lambda record: (-value_of(record).n, not record.success))


def _without(records: Iterable[MemoryRecord], keys: Iterable[str]) -> list[MemoryRecord]:
    gone = set(keys)
    return [record for record in records if record.key not in gone]


def _shingles(text: str) -> frozenset[tuple[str, ...]]:
    """Runs of three words or symbols, case aside; a shorter text is one run."""
    words = re.findall(r"\w+|[^\w\s]", text.casefold())
    if len(words) <= SHINGLE_WORDS:
        return frozenset([tuple(words)])
    return frozenset(tuple(words[i : i + SHINGLE_WORDS]) for i in range(len(words) - SHINGLE_WORDS + 1))


def _jaccard(one: frozenset[Any], other: frozenset[Any]) -> float:
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)


# -- on a backend -----------------------------------------------------------------------------------------------------


def all_namespaces(backend: MemoryBackend, prefix: Namespace = (), *, ledgers: bool = False) -> list[Namespace]:
    """The backend's namespaces that begin with `prefix`, itself included; raises where it cannot list them.

    Those of entries about values (`ledger`) only with `ledgers`.
    """
    if not callable(getattr(backend, "namespaces", None)):
        raise MemoryBackendError(f"{type(backend).__name__} cannot list its namespaces; name the one that is meant")
    names = cast(ListsNamespaces, backend).namespaces()
    return [name for name in names if name[: len(prefix)] == prefix and (ledgers or not is_ledger(name))]


def read_all(backend: MemoryBackend, namespace: Namespace) -> list[MemoryRecord]:
    """Every record of the namespace, newest first."""
    return [entry.record for entry in backend.search(namespace, limit=EVERYTHING)]


def stats(backend: MemoryBackend, namespace: Namespace) -> NamespaceStats:
    records = read_all(backend, namespace)
    return NamespaceStats(
        namespace=namespace,
        records=len(records),
        reflections=sum(record.kind == "reflection" for record in records),
        trajectories=sum(record.kind == "trajectory" for record in records),
        successes=sum(record.success for record in records),
        tasks=len({record.task_id for record in records}),
        chars=sum(len(record.text) for record in records),
        valued=sum(value_of(record).known for record in records),
        harmful=sum(value_of(record).harms for record in records),
    )


class Worth(NamedTuple):
    """A record, what was measured of it, and what is therefore `expected` of it: little evidence counts for little, and
    is drawn to what the namespace's records are worth (`utility.prior_of`)."""

    record: MemoryRecord
    value: Value
    expected: float


def top(backend: MemoryBackend, namespace: Namespace, limit: int = 10, *, worst: bool = False) -> list[Worth]:
    """The records whose values were measured, at most `limit`: those of which most is expected first, or (`worst`)
    least."""
    known = [(record, value_of(record)) for record in read_all(backend, namespace) if value_of(record).known]
    noted = backend.search((*namespace, LEDGER), filter={"key": OVERALL}, limit=1)
    prior = prior_of([value for _, value in known], value_of(noted[0].record) if noted else UNKNOWN)
    found = [Worth(record, value, prior.given(value)[0]) for record, value in known]
    found.sort(key=lambda one: (one.expected if worst else -one.expected, one.record.key))
    return found[:limit]


def prune(
    backend: MemoryBackend,
    namespace: Namespace,
    *,
    budget: int | None = None,
    near: float | None = 0.9,
    dry_run: bool = False,
) -> Pruned:
    """Forget duplicates, near-duplicates (unless `near` is None) and what exceeds `budget`; says what went.

    Not while trials play in the namespace: a trial whose own record goes would not recall it.
    """
    chosen = plan(namespace, read_all(backend, namespace), budget=budget, near=near)
    if chosen.keys and not dry_run:
        backend.delete(namespace, chosen.keys)
        drop_entries(backend, namespace, chosen.keys)
    return chosen


def forget(backend: MemoryBackend, prefix: Namespace, *, known: Iterable[str] = ()) -> None:
    """Delete every namespace that begins with `prefix`: all of a user's, a run's, an agent's memory.

    Where the backend cannot list them: the prefix itself and those that one of the `known` labels makes of it.
    """
    listed = callable(getattr(backend, "namespaces", None))
    labels = [LEDGER, *known]
    names = all_namespaces(backend, prefix, ledgers=True) if listed else [prefix, *((*prefix, one) for one in labels)]
    for name in names:
        backend.delete(name)


# -- JSON lines -------------------------------------------------------------------------------------------------------


def export_records(backend: MemoryBackend, namespaces: Iterable[Namespace], out: IO[str]) -> int:
    """Write the records as JSON lines, oldest first within each namespace; returns their number.

    A line is `{"schema": 1, "namespace": [..], "record": {..}}`, in ASCII.
    """
    count = 0
    for namespace in namespaces:
        for record in reversed(read_all(backend, namespace)):
            line = {"schema": EXPORT_SCHEMA, "namespace": list(namespace), "record": record.to_json()}
            out.write(json.dumps(line) + "\n")
            count += 1
    return count


def import_records(backend: MemoryBackend, lines: IO[str], *, under: Namespace = ()) -> int:
    """Upsert what `export_records` wrote, in its order, each namespace placed below `under`; returns the number.

    Raises MemoryImportError at the first malformed line, naming it; what came before it has been written.
    """
    count = 0
    batch: list[MemoryRecord] = []
    current: Namespace | None = None
    for namespace, record in _parsed(lines):
        if batch and (namespace != current or len(batch) >= IMPORT_BATCH):
            backend.put((*under, *cast(Namespace, current)), batch)
            batch = []
        current = namespace
        batch.append(record)
        count += 1
    if batch:
        backend.put((*under, *cast(Namespace, current)), batch)
    return count


def _parsed(lines: IO[str]) -> Iterator[tuple[Namespace, MemoryRecord]]:
    number = 0
    while line := lines.readline(MAX_LINE_CHARS):
        number += 1
        if line.isspace():
            continue
        if len(line) >= MAX_LINE_CHARS:
            raise MemoryImportError(f"line {number} is longer than {MAX_LINE_CHARS:,} characters")
        try:
            data = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise MemoryImportError(f"line {number} is not JSON: {error}") from None
        problem = _problem(data)
        if problem:
            raise MemoryImportError(f"line {number}: {problem}")
        yield tuple(data["namespace"]), MemoryRecord.from_json(data["record"])


_FIELDS: dict[str, tuple[type, ...]] = {
    "key": (str,),
    "task_id": (str,),
    "episode": (int,),
    "kind": (str,),
    "text": (str,),
    "success": (bool,),
    "metadata": (dict,),
}


def _problem(data: Any) -> str:
    """What is wrong with a line's content, empty if nothing is."""
    if not isinstance(data, dict) or set(data) != {"schema", "namespace", "record"}:
        return "must be an object with schema, namespace and record"
    if data["schema"] != EXPORT_SCHEMA:
        return f"has schema {data['schema']!r}, this version reads {EXPORT_SCHEMA}"
    if not isinstance(data["namespace"], list) or not all(isinstance(label, str) for label in data["namespace"]):
        return "the namespace must be a list of texts"
    record = data["record"]
    if not isinstance(record, dict) or set(record) != set(_FIELDS):
        return f"the record must have exactly the fields {', '.join(_FIELDS)}"
    for name, kinds in _FIELDS.items():
        if type(record[name]) not in kinds:
            return f"record field {name} must be {kinds[0].__name__}, not {type(record[name]).__name__}"
    if record["kind"] not in get_args(Kind):
        return f"record kind must be one of {', '.join(get_args(Kind))}, not {record['kind']!r}"
    for name, value in record["metadata"].items():
        if not (value is None or isinstance(value, str | int | float)):
            return f"metadata {name!r} must be a text, number, boolean or null"
    return ""
