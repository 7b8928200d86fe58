"""`lamer-graph serve-env` without OpenEnv says what to install; with it, it serves until it is stopped."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
import urllib.request

import pytest

from lamer_graph.cli import main

COMMAND = [sys.executable, "-m", "lamer_graph.cli", "serve-env", "--env", "sokoban", "--port", "0", "--json"]


def test_without_openenv_it_is_refused_with_the_way_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "lamer_envs.openenv", None)  # its import now fails as without OpenEnv
    with pytest.raises(SystemExit) as leave:
        main(["serve-env", "--env", "sokoban", "--port", "0"])
    assert leave.value.code == 2
    assert "pip install 'lamer-graph[openenv]'" in capsys.readouterr().err


@pytest.mark.skipif(importlib.util.find_spec("openenv") is None, reason="no extra `openenv` here: make test-openenv")
def test_it_serves_until_it_is_interrupted() -> None:
    with subprocess.Popen(COMMAND, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            document = json.loads(server.stdout.readline())
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(document["base_url"] + "/health", timeout=20) as answer:
                assert json.load(answer)["status"] == "healthy"
        finally:
            server.send_signal(signal.SIGINT)
        assert server.wait(timeout=30) == 0


@pytest.mark.skipif(importlib.util.find_spec("openenv") is None, reason="no extra `openenv` here: make test-openenv")
def test_other_machines_need_a_key(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LAMER_API_KEY", raising=False)
    with pytest.raises(SystemExit) as leave:
        main(["serve-env", "--env", "sokoban", "--host", "0.0.0.0", "--port", "0"])
    assert leave.value.code == 2
    assert "API key" in capsys.readouterr().err
