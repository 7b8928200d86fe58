"""Chroma as a memory: `memory` is the backend, `store` a LangGraph store, `process` the backend in its own process."""

from lamer_memory.chroma.memory import ChromaMemory as ChromaMemory
