"""Whether a model and a tokenizer are of one another, known from their files before any weight is read.

What must stay true: every token that a tokenizer may give has a row in its model; else a prompt would be an index error
on a CPU, and on a GPU the end of the process. A model may have rows to spare (they are padded to round numbers), but
not as many again as its tokenizer has tokens: such a tokenizer is another model's, and makes nonsense without an
error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lamer_graph.errors import ConfigError


def check_vocabulary(folder: Path) -> None:
    """Raises ConfigError if the folder's tokenizer and model are not of one another; what does not say is let by."""
    words, rows = words_of(folder), rows_of(folder)
    if words is not None and rows is not None:
        check_words(words, rows, str(folder))


def check_words(words: int, rows: int, name: str) -> None:
    """Raises ConfigError unless a tokenizer of `words` tokens can be that of a model with `rows` of them."""
    if words > rows or rows >= 2 * words:
        raise ConfigError(
            f"{name}: its tokenizer has {words} tokens and its model knows {rows}: they are not one model's, put the "
            "files of one model there"
        )


def words_of(folder: Path) -> int | None:
    """One more than the largest id in the folder's tokenizer.json, None where that cannot be read."""
    stored = _read(folder / "tokenizer.json")
    try:
        vocabulary = stored["model"]["vocab"]
        ids = list(vocabulary.values()) if isinstance(vocabulary, Mapping) else list(range(len(vocabulary)))
        ids += [token["id"] for token in stored.get("added_tokens", ())]
        return max(map(int, ids)) + 1
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def rows_of(folder: Path) -> int | None:
    """How many tokens the folder's model knows, None where its configuration does not say."""
    config = _read(folder / "config.json")
    text = config.get("text_config")
    rows = (text if isinstance(text, dict) else config).get("vocab_size")
    return rows if isinstance(rows, int) else None


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
