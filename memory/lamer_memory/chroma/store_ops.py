"""What LangGraph's store operations mean: which are refused, and how filters and match conditions compare.

What must stay true: what no store takes, or what would mean nothing (a malformed namespace, filter, page or value), is
refused whether or not an item would come to be compared; where LangGraph's own stores differ, one that answers counts
before one that raises.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from langgraph.store.base import (
    GetOp,
    InvalidNamespaceError,
    ListNamespacesOp,
    MatchCondition,
    Op,
    PutOp,
    SearchOp,
    validate_op_namespace,
)

from lamer_memory.errors import MemoryBackendError

# -- comparing --------------------------------------------------------------------------------------------------------


def field(value: Any, name: str) -> Any:
    """What a mapping holds under a name, else under the dotted path that the name is; None where it holds neither."""
    if not isinstance(value, Mapping):
        return None
    if name in value or "." not in name:
        return value.get(name)
    first, _, rest = name.partition(".")
    return field(value.get(first), rest)


def compare(value: Any, wanted: Any) -> bool:
    """Whether a field holds what a filter wants: an operator, a nested mapping whose entries all hold, or equality.

    Numbers, and texts that are numbers, are ordered as numbers, other texts as texts (Unicode code points); what cannot
    be ordered is not greater or less.
    """
    if isinstance(wanted, Mapping):
        if _has_operator(wanted):
            return all(_operator(value, name, operand) for name, operand in wanted.items())
        return isinstance(value, Mapping) and all(compare(field(value, name), inner) for name, inner in wanted.items())
    if isinstance(wanted, list | tuple):
        return (
            isinstance(value, list)
            and len(value) == len(wanted)
            and all(compare(one, other) for one, other in zip(value, wanted, strict=True))
        )
    return bool(value == wanted)


OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "$eq": operator.eq,
    "$ne": operator.ne,
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}


def _operator(value: Any, name: str, operand: Any) -> bool:
    left, right = value, operand
    if name not in ("$eq", "$ne"):
        try:
            left, right = float(value), float(operand)
        except (TypeError, ValueError):
            if not (isinstance(value, str) and isinstance(operand, str)):
                return False
    return bool(OPERATORS[name](left, right))


def _has_operator(wanted: Mapping[str, Any]) -> bool:
    return any(name.startswith("$") for name in wanted)


def holds(condition: MatchCondition, name: tuple[str, ...]) -> bool:
    """Whether a namespace begins or ends as the condition says; `*` is any one label."""
    path = condition.path
    if len(path) > len(name):
        return False
    part = name[: len(path)] if condition.match_type == "prefix" else name[len(name) - len(path) :]
    return all(wanted in ("*", label) for wanted, label in zip(path, part, strict=True))


# -- refusals ---------------------------------------------------------------------------------------------------------


def checked(op: Op) -> Op:
    """The op with its namespace as a tuple. Raises ValueError (InvalidNamespaceError is one) for what no store takes,
    MemoryBackendError for a value that is not JSON."""
    if isinstance(op, SearchOp):
        op = op._replace(namespace_prefix=_namespace(op.namespace_prefix))
        for wanted in (op.filter or {}).values():
            _check_filter(wanted)
    elif isinstance(op, GetOp | PutOp):
        op = op._replace(namespace=_namespace(op.namespace))
    elif not isinstance(op, ListNamespacesOp):
        raise ValueError(f"unknown operation {type(op).__name__}")
    validate_op_namespace(op)
    for condition in (op.match_conditions or ()) if isinstance(op, ListNamespacesOp) else ():
        if condition.match_type not in ("prefix", "suffix"):
            raise ValueError(f"unknown match type {condition.match_type!r}; there are prefix, suffix")
    if isinstance(op, SearchOp | ListNamespacesOp) and (op.limit < 0 or op.offset < 0):
        raise ValueError(f"limit and offset must be at least 0, not {op.limit} and {op.offset}")
    if isinstance(op, PutOp) and op.value is not None:
        op = op._replace(value=dict(op.value))
        _check_value(op)
    return op


def _namespace(given: Sequence[str]) -> tuple[str, ...]:
    if isinstance(given, str):
        raise InvalidNamespaceError(f"a namespace is a tuple of labels, e.g. ({given!r},), not the text {given!r}")
    return tuple(given)


def _check_filter(wanted: Any) -> None:
    """Refuse an operator that LangGraph does not have."""
    if odd := [name for name in _keys(wanted) if not isinstance(name, str)]:
        raise ValueError(f"a filter's keys are texts, not {odd[0]!r}")
    if isinstance(wanted, Mapping) and _has_operator(wanted):
        if unknown := [name for name in wanted if name not in OPERATORS]:
            raise ValueError(f"unknown filter operator {unknown[0]!r}; there are {', '.join(OPERATORS)}")
    elif isinstance(wanted, Mapping | list | tuple):
        for inner in wanted.values() if isinstance(wanted, Mapping) else wanted:
            _check_filter(inner)


def _check_value(op: PutOp) -> None:
    try:
        json.dumps(op.value)
        for name in _keys(op.value):
            if not isinstance(name, str):  # JSON would turn it into one
                raise TypeError(f"a key is {name!r}, not a text")
    except (TypeError, ValueError, RecursionError) as error:
        raise MemoryBackendError(f"the value of {op.key!r} in {op.namespace} cannot be kept as JSON: {error}") from None


def _keys(value: Any) -> Iterator[object]:
    """Every key in a JSON value."""
    if isinstance(value, dict):
        yield from value
    elif not isinstance(value, list | tuple):
        return
    for inner in value.values() if isinstance(value, dict) else value:
        yield from _keys(inner)
