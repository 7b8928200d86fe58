"""Memory for agents that retry: what earlier episodes leave for later ones, behind one protocol.

What must stay true: `import lamer_memory` is light (no vector store, no model, no pytest); a backend that passes
`lamer_memory.conformance` can replace any other; contents (what) and backend (where) are chosen independently.
"""

from typing import TYPE_CHECKING

from lamer_memory.base import Kind, MemoryBackend, MemoryRecord, MetadataValue, Namespace, ScoredRecord, record_key
from lamer_memory.config import Contents, Lessons, MemoryConfig, Outcomes, Scope, backend_names, open_backend
from lamer_memory.errors import (
    EmbedderError,
    MemoryBackendError,
    MemoryClosedError,
    MemoryConfigError,
    MemoryImportError,
    MemoryLockedError,
    MemoryServerError,
)
from lamer_memory.in_context import InContextMemory, matches
from lamer_memory.recall import (
    ABOUT_KEY,
    CUT_MARK,
    aown_records,
    asimilar_records,
    cut,
    kinds,
    make_record,
    own_records,
    select_own,
    select_similar,
    similar_records,
    trial_namespace,
)
from lamer_memory.utility import Select, Value, value_of

if TYPE_CHECKING:
    from lamer_memory.chroma.memory import ChromaMemory
    from lamer_memory.chroma.process import ChromaProcess
    from lamer_memory.chroma.store import ChromaStore
    from lamer_memory.frozen import FrozenView
    from lamer_memory.store import StoreMemory

_LAZY = {
    "ChromaMemory": "lamer_memory.chroma.memory",
    "ChromaProcess": "lamer_memory.chroma.process",
    "ChromaStore": "lamer_memory.chroma.store",
    "FrozenView": "lamer_memory.frozen",
    "StoreMemory": "lamer_memory.store",
}


def __getattr__(name: str) -> object:
    """Backends that need heavier libraries are imported when they are first asked for."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)


__all__ = [
    "ABOUT_KEY",
    "ChromaMemory",
    "ChromaProcess",
    "ChromaStore",
    "EmbedderError",
    "FrozenView",
    "MemoryImportError",
    "MemoryLockedError",
    "MemoryServerError",
    "StoreMemory",
    "CUT_MARK",
    "Contents",
    "InContextMemory",
    "Kind",
    "Lessons",
    "MemoryBackend",
    "MemoryBackendError",
    "MemoryClosedError",
    "MemoryConfig",
    "MemoryConfigError",
    "MemoryRecord",
    "MetadataValue",
    "Namespace",
    "Outcomes",
    "Scope",
    "ScoredRecord",
    "Select",
    "Value",
    "aown_records",
    "asimilar_records",
    "backend_names",
    "cut",
    "kinds",
    "make_record",
    "matches",
    "open_backend",
    "own_records",
    "record_key",
    "select_own",
    "select_similar",
    "similar_records",
    "trial_namespace",
    "value_of",
]
