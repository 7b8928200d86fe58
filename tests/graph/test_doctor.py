"""The doctor finds what is broken, and never breaks itself."""

from __future__ import annotations

import importlib.metadata
import json
from collections import namedtuple
from pathlib import Path

import pytest

from lamer_graph import doctor
from lamer_graph.doctor import Check, diagnose, healthy

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """No heavy library is looked at."""
    monkeypatch.setattr(doctor, "HEAVY", ())


def named(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_this_machine_is_healthy_and_every_finding_says_something(light: None, tmp_path: Path) -> None:
    checks = diagnose(tmp_path / "runs")
    assert healthy(checks), [check for check in checks if check.status == "broken"]
    assert all(check.detail for check in checks)
    found = named(checks)
    assert "langgraph" in found["core packages"].detail
    assert "minesweeper" in found["environments"].detail
    assert "in-context" in found["memory backends"].detail
    json.dumps([check.to_json() for check in checks])
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import no_such_module_of_ours", "no_such_module_of_ours"),
        ("raise RuntimeError('operator torchvision::nms does not exist')", "torchvision::nms"),
        ("import os; os.abort()", "exit code -6"),
        (r"import sys; sys.stderr.buffer.write(b'no library \xff'); sys.exit(1)", "no library"),
        ("import time; time.sleep(60)", "more than 1 s"),
    ],
)
def test_a_library_that_does_not_import_is_broken_and_comes_with_a_fix(
    monkeypatch: pytest.MonkeyPatch, code: str, said: str
) -> None:
    monkeypatch.setattr(doctor, "HEAVY", (("rich", ("rich",), code, "train"),))
    check = named(diagnose(import_timeout_s=1.0))["rich"]
    assert check.status == "broken"
    assert said in check.detail
    assert importlib.metadata.version("rich") in check.detail
    assert "make setup" in check.fix


def test_a_library_that_is_not_installed_is_missing_not_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "HEAVY", (("vllm", ("no-such-distribution",), "pass", "serve"),))
    checks = diagnose()
    assert named(checks)["vllm"].status == "missing"
    assert "serve" in named(checks)["vllm"].detail
    assert "vllm" in named(checks)["vllm"].fix
    assert healthy([named(checks)["vllm"]])


def test_a_version_outside_the_requirements_is_named_with_them(light: None, monkeypatch: pytest.MonkeyPatch) -> None:
    requirements = ["rich>=999", "no-such-distribution>=1", "typer", 'torch>=999; extra == "train"']
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: requirements)
    found = named(diagnose())
    assert found["core packages"].status == "broken"
    assert ">=999" in found["core packages"].detail
    assert "no-such-distribution is not installed" in found["core packages"].detail
    assert found["extra train"].status == "missing"
    assert "lamer-graph[train]" in found["extra train"].fix


def test_a_plugin_that_does_not_load_is_named(light: None, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = importlib.metadata.EntryPoint("chess", "no_such_package.chess:Chess", "lamer_graph.envs")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [bad])
    check = named(diagnose())["environments"]
    assert check.status == "broken"
    assert "chess" in check.detail
    assert "no_such_package" in check.detail


def test_a_full_disk_and_a_missing_policy_are_found(
    light: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: Usage(10**12, 10**12, 10**8))
    monkeypatch.setattr(doctor, "shipped_policies", dict)
    found = named(diagnose(tmp_path))
    assert found["run folder"].status == "broken"
    assert "0.1 GiB free" in found["run folder"].detail
    assert found["shipped policies"].status == "missing"
    assert "warmup" in found["shipped policies"].fix


def test_a_check_that_fails_is_itself_a_finding(light: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode() -> list[Check]:
        raise OSError("no such sensor")

    monkeypatch.setattr(doctor, "_machine", explode)
    monkeypatch.setattr(doctor, "_heavy", lambda *row: explode())
    monkeypatch.setattr(doctor, "HEAVY", (("rich", ("rich",), "pass", "train"),))
    found = named(diagnose())
    for name in ("machine", "rich"):
        assert found[name].status == "broken"
        assert "no such sensor" in found[name].detail


def test_a_tool_for_gpus_that_does_not_answer_is_a_note(
    light: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nexit 9\n")
    tool.chmod(0o755)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: str(tool))
    found = named(diagnose())
    assert found["gpu"].status == "note"
    assert "nvidia-smi fails" in found["gpu"].detail
    assert found["machine"].status == "ok"
