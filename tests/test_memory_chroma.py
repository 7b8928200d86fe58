"""Chroma keeps the contract of every backend: ephemeral, in a directory, and through a server."""

import pytest

pytest.register_assert_rewrite("lamer_memory.conformance")

from lamer_memory.chroma import ChromaMemory  # noqa: E402
from lamer_memory.conformance import BackendConformance, MakeBackend  # noqa: E402


class TestEphemeralChroma(BackendConformance):
    @pytest.fixture
    def make_backend(self) -> MakeBackend:
        return ChromaMemory


class TestChromaDirectory(BackendConformance):
    @pytest.fixture
    def make_backend(self, tmp_path) -> MakeBackend:
        return lambda: ChromaMemory(tmp_path)

    @pytest.fixture
    def reopen(self, tmp_path) -> MakeBackend:
        return lambda: ChromaMemory(tmp_path)
