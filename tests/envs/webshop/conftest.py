"""What every test of WebShop has: a folder of indices of the suite's own, and two shops."""

from __future__ import annotations

import pytest

from lamer_envs import make
from lamer_envs.webshop.env import Webshop
from lamer_envs.webshop.search import CACHE_VARIABLE
from webshop_data import data


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path_factory.getbasetemp() / "webshop-cache"))


@pytest.fixture
def env() -> Webshop:
    made = make("webshop", data=data())
    assert isinstance(made, Webshop)
    return made


@pytest.fixture
def big() -> Webshop:
    made = make("webshop", products=300)
    assert isinstance(made, Webshop)
    return made
