"""The texts of logged tokens, where the tokenizer that made them is at hand.

What must stay true: a piece is shown only of the tokenizer that the run says it was sampled with (or that a person
named), and the pieces are those of the tokens: what does not add up to the logged text is not claimed to.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from lamer_graph.report.runs import Run

FILE = "tokenizer.json"
MAX_BYTES = 64 << 20
MAX_RUN = 8
"""Most tokens that one character may be made of."""


def tokenizer_of(run: Run, policy: Path | None = None) -> Any | None:
    """The tokenizer of a run's policy: of the folder `policy`, or else of the one that the run names, if it is still
    the same. None where there is none, or `tokenizers` is not installed."""
    if policy is not None:
        return _opened(policy.absolute() / FILE)
    for sampler in run.sampled_by:
        folder, known = sampler.get("folder"), sampler.get("tokenizer")
        if isinstance(folder, str) and isinstance(known, str) and "\0" not in folder:
            found = _opened(Path(folder).absolute() / FILE)
            if found is not None and _fingerprint(found) == known:
                return found
    return None


@lru_cache(maxsize=4)
def _opened(path: Path) -> Any | None:
    try:
        from tokenizers import Tokenizer

        if not path.is_file() or path.stat().st_size > MAX_BYTES:
            return None
        return Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except (ImportError, OSError, ValueError):
        return None
    except Exception:  # tokenizers raises bare Exceptions for files that are none
        return None


def _fingerprint(tokenizer: Any) -> str:
    """As `lamer_graph.policies.fingerprint.model_kind` has it."""
    text = json.dumps(tokenizer.get_vocab(), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def pieces_of(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text of each token. Of several that make up one character the first has it and the others are empty."""
    found: list[str] = []
    at = 0
    while at < len(ids):
        for end in range(at + 1, min(at + MAX_RUN, len(ids)) + 1):
            text = _decoded(tokenizer, ids[at:end])
            if "\N{REPLACEMENT CHARACTER}" not in text:
                break
        else:
            end, text = at + 1, _decoded(tokenizer, ids[at : at + 1])
        found += [text, *[""] * (end - at - 1)]
        at = end
    return found


def _decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    try:
        return str(tokenizer.decode(list(ids), skip_special_tokens=False))
    except Exception:  # an id beyond the vocabulary overflows in Rust
        return ""
