"""What all tests of the graph have in common."""

from __future__ import annotations

import pytest


@pytest.fixture
def own_dice() -> None:
    """For a test of what every trial draws by itself."""


@pytest.fixture(autouse=True)
def same_dice(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials that nobody gives a seed draw alike: a scripted player that now and then wins would fail some runs."""
    if "own_dice" not in request.fixturenames:
        monkeypatch.setattr("lamer_graph.agent.invocation.fresh_seed", lambda: 0)
