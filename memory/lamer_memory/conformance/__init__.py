"""A pytest suite that a memory backend, ours or anyone's, must pass; the contract of `base` as executable checks.

What must stay true: every promise of the protocol has a test here that a backend breaking it fails. Use it like this:

    # test_my_backend.py
    import pytest
    from lamer_memory.conformance import BackendConformance

    class TestMyBackend(BackendConformance):
        @pytest.fixture
        def make_backend(self, tmp_path):
            return lambda: MyBackend(tmp_path)

        @pytest.fixture
        def reopen(self, tmp_path):             # only where `persistent`: opens the closed store again
            return lambda: MyBackend(tmp_path)

`pytest.register_assert_rewrite("lamer_memory.conformance")` before the import makes failures readable.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lamer_memory.base import MemoryBackend
from lamer_memory.conformance.finding import FindingConformance
from lamer_memory.conformance.keeping import KeepingConformance
from lamer_memory.conformance.running import RunningConformance
from lamer_memory.conformance.samples import MakeBackend, a_record, in_threads
from lamer_memory.conformance.valuing import ValuingConformance

__all__ = ["BackendConformance", "MakeBackend", "a_record", "in_threads"]


class BackendConformance(KeepingConformance, FindingConformance, RunningConformance, ValuingConformance):
    """Subclass as `Test...` and override `make_backend`; for persistent backends `reopen` too."""

    @pytest.fixture
    def make_backend(self) -> MakeBackend:
        """A function that opens the backend on an empty store."""
        raise NotImplementedError("override the fixture make_backend: a function that opens an empty backend")

    @pytest.fixture
    def reopen(self) -> MakeBackend | None:
        """A function that opens the store of a closed backend again; None skips the tests of persistence."""
        return None

    @pytest.fixture
    def backend(self, make_backend: MakeBackend) -> Iterator[MemoryBackend]:
        backend = make_backend()
        yield backend
        backend.close()
