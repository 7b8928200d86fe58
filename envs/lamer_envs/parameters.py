"""Parameters of environments: checked, written into specs and read back; and generators that are the same everywhere.

What must stay true: what `spec_text` writes, `from_text` reads into an equal object, or one EnvParameterError says why
it cannot be; a hash or a generator depends on its text alone, in every process.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Mapping
from difflib import get_close_matches
from inspect import Parameter, formatannotation, signature
from typing import Any

from lamer_envs.errors import EnvParameterError


def stable_hash(text: str) -> int:
    """A 64-bit hash of a text, the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def generator(*parts: object) -> random.Random:
    """A private generator for these parts, the same in every process."""
    return random.Random(stable_hash("\n".join(map(str, parts))))


def check_whole(name: str, value: object, low: int, high: int, where: str = "", example: str = "") -> None:
    """Raise EnvParameterError unless `value` is an integer from `low` to `high` (on a board of `where`)."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        shown = f"; for example {example}" if example else ""
        raise EnvParameterError(f"{name} must be an integer from {low} to {high}{where}, not {str(value)[:40]}{shown}")


def known_parameters(cls: type) -> Mapping[str, Parameter]:
    """The parameters of a class's constructor that have a name."""
    kinds = (Parameter.VAR_KEYWORD, Parameter.VAR_POSITIONAL)
    return {key: each for key, each in signature(cls).parameters.items() if each.kind not in kinds}


def nearest(key: str, known: Mapping[str, Any]) -> str:
    """The end of a message about an unknown parameter: the nearest one, and all there are."""
    near = get_close_matches(key, known, n=1, cutoff=0.0)
    return (f"; did you mean '{near[0]}'?" if near else "") + f" Parameters: {', '.join(known) or 'none'}"


def spec_text(name: str, thing: object) -> str:
    """`name`, or `name:value,key=value` with the constructor's parameters that are not at their defaults.

    The first parameter stands without its key. Values are the object's attributes of the same names: numbers, True and
    False, or text without `,` and `=`. Raises EnvParameterError for others.
    """
    cls, words = type(thing), []
    for at, (key, parameter) in enumerate(known_parameters(cls).items()):
        if not hasattr(thing, key):
            raise EnvParameterError(
                f"{cls.__name__} must keep its parameter as self.{key}, or write `spec` and `from_spec`"
            )
        value = getattr(thing, key)
        if value == parameter.default and type(value) is type(parameter.default):
            continue
        text = str(value)
        if not isinstance(value, bool | int | float | str) or not re.fullmatch(r"[^,=\s]+", text):
            raise EnvParameterError(
                f"a spec cannot hold {key}={text[:40]!r} of {cls.__name__}: write `spec` and `from_spec` for it"
            )
        words.append(text if at == 0 else f"{key}={text}")
    return f"{name}:{','.join(words)}" if words else name


def from_text(name: str, cls: type, text: str) -> dict[str, Any]:
    """The constructor's arguments in a spec's part after the colon. Raises EnvParameterError."""
    known = known_parameters(cls)
    found: dict[str, Any] = {}
    for at, word in enumerate(text.split(",") if text else []):
        key, equals, value = word.strip().partition("=")
        if not equals and at == 0 and known:
            key, value = next(iter(known)), key
        elif not equals or key not in known or key in found:
            raise EnvParameterError(f"{name} cannot read '{word.strip()[:40]}' in its spec{nearest(key, known)}")
        found[key] = _value(name, key, known[key], value)
    missing = [key for key, each in known.items() if each.default is Parameter.empty and key not in found]
    if missing:
        raise EnvParameterError(f"{name} needs {', '.join(missing)}; write {name}:{missing[0]}=..")
    return found


def _value(name: str, key: str, parameter: Parameter, text: str) -> Any:
    """A value of the type that the parameter's default or annotation has."""
    default, annotation = parameter.default, parameter.annotation
    if default is None or default is Parameter.empty:
        said = annotation if isinstance(annotation, str) else formatannotation(annotation)
        kind = next((word for word in re.findall(r"\w+", said) if word in ("str", "bool", "int", "float")), "str")
    else:
        kind = type(default).__name__
    if kind == "bool" and text in ("True", "False"):
        return text == "True"
    if kind == "int" and re.fullmatch(r"-?[0-9]{1,18}", text, re.ASCII):
        return int(text)
    if kind == "float":
        try:
            return float(text)
        except ValueError:
            pass
    if kind in ("bool", "int", "float"):
        what = {"bool": "True or False", "int": "a whole number", "float": "a number"}[kind]
        raise EnvParameterError(f"{name}'s {key} must be {what}, not '{text[:40]}'")
    return text
