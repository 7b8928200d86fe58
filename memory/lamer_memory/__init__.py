"""Memory for agents that retry: what earlier episodes leave for later ones, behind one protocol.

What must stay true: `import lamer_memory` is light (no vector store, no model, no pytest); a backend that passes
`lamer_memory.conformance` can replace any other; contents (what) and backend (where) are chosen independently.
"""

from lamer_memory.base import Kind, MemoryBackend, MemoryRecord, MetadataValue, Namespace, ScoredRecord, record_key
from lamer_memory.config import Contents, MemoryConfig, Scope, backend_names, open_backend
from lamer_memory.errors import MemoryBackendError, MemoryClosedError, MemoryConfigError
from lamer_memory.in_context import InContextMemory, matches
from lamer_memory.recall import (
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

__all__ = [
    "CUT_MARK",
    "Contents",
    "InContextMemory",
    "Kind",
    "MemoryBackend",
    "MemoryBackendError",
    "MemoryClosedError",
    "MemoryConfig",
    "MemoryConfigError",
    "MemoryRecord",
    "MetadataValue",
    "Namespace",
    "Scope",
    "ScoredRecord",
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
]
