"""A player of the command line that a defect keeps from playing; a worker process can import it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from lamer_graph.cli.options import Player
from lamer_graph.policies.base import Policy


class BrokenPlayer(Player):
    @asynccontextmanager
    async def open(self, env: str, *, training: bool | None) -> AsyncIterator[Policy]:
        raise RuntimeError("a defect")
        yield
