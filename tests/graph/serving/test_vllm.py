"""The vLLM manager: nothing outlives its parent, a death is mended once, adapters come back, bad input is refused."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from peft import LoraConfig, get_peft_model

from lamer_graph.errors import ConfigError, ServeError
from lamer_graph.policies.local import LocalPolicy
from lamer_graph.policies.openai import OpenAIPolicy
from lamer_graph.serving import needs, supervisor
from lamer_graph.serving import vllm as serve
from lamer_graph.serving.vllm import VllmServer
from lamer_graph.trial.calls import call
from lamer_graph.trial.steps import Ask
from lamer_graph.types import Message, Sampling
from places import SUPPORT

ACT: list[Message] = [{"role": "user", "content": "Open (0, 1)=2 Act"}]


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def running(pids: list[int]) -> list[int]:
    """Those of `pids` that are processes still; a zombie that its reaper has not fetched yet is none."""
    found = []
    for pid in pids:
        try:
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.append(pid)
        except psutil.NoSuchProcess:
            continue
    return found


# -- the supervisor, with a cheap server ------------------------------------------------------------------------------

STUBBORN = """
    import os, signal, subprocess, sys, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # A worker in a session of its own whose parent is gone: neither its process group nor its parent leads to it.
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            while True:
                time.sleep(1)
        os._exit(0)
    os.wait()
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    print("up", flush=True)
    time.sleep({life})
"""


@contextmanager
def supervised(tmp_path: Path, life: float = 600, restarts: int = 1) -> Iterator[subprocess.Popen[bytes]]:
    script = tmp_path / "stubborn.py"
    script.write_text(textwrap.dedent(STUBBORN).replace("{life}", str(life)))
    process = subprocess.Popen(
        [sys.executable, "-I", supervisor.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tmp_path
    )
    assert process.stdin is not None
    spec = {"argv": [sys.executable, str(script)], "log": str(tmp_path / "log"), "restarts": restarts}
    process.stdin.write(json.dumps({**spec, "parent": os.getpid()}).encode() + b"\n")
    process.stdin.flush()
    try:
        yield process
    finally:
        process.stdin.close()
        process.wait(20)


def tree(process: subprocess.Popen[bytes], size: int) -> list[int]:
    """The processes under the supervisor once there are `size` of them."""
    wait_for(lambda: len(running(supervisor.descendants(process.pid))) >= size, 20)
    return supervisor.descendants(process.pid)


def test_the_end_of_the_pipe_ends_the_whole_tree_even_what_ignores_sigterm(tmp_path: Path) -> None:
    with supervised(tmp_path) as process:
        pids = tree(process, 3)
        assert (tmp_path / "log").read_text() == "up\n"
    assert process.returncode == 0
    assert running(pids) == []


def test_a_killed_parent_takes_the_tree_along_though_a_fork_holds_the_pipe(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import json, os, subprocess, sys, time
            server = "import time; time.sleep(600)"
            process = subprocess.Popen([sys.executable, "-I", {supervisor.__file__!r}], stdin=subprocess.PIPE)
            spec = {{"argv": [sys.executable, "-c", server], "log": {str(tmp_path / "log")!r}, "restarts": 0}}
            process.stdin.write(json.dumps({{**spec, "parent": os.getpid()}}).encode() + b"\\n")
            process.stdin.flush()
            fork = os.fork()
            if fork == 0:
                time.sleep(60)
                os._exit(0)
            print(process.pid, fork, flush=True)
            time.sleep(600)
            """
        )
    )
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid, fork = (int(word) for word in parent.stdout.readline().split())
    try:
        wait_for(lambda: len(supervisor.descendants(pid)) == 1, 20)
        pids = [pid, *supervisor.descendants(pid)]
        parent.kill()
        parent.wait()
        wait_for(lambda: running(pids) == [], 20)
    finally:
        os.kill(fork, signal.SIGKILL)


def test_a_death_is_mended_as_often_as_allowed_and_leaves_no_orphans(tmp_path: Path) -> None:
    with supervised(tmp_path, life=0.5, restarts=2) as process:
        assert process.stdout is not None
        events = [json.loads(line) for line in process.stdout]
        assert process.wait(20) == 1
    names = [event["event"] for event in events]
    assert names == ["started", "exited", "started", "exited", "started", "gave_up"]
    assert (tmp_path / "log").read_text() == "up\n" * 3
    assert running([event["pid"] for event in events if "pid" in event]) == []
    strays = [p.pid for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(p.info["cmdline"] or [])]
    assert strays == []


def test_a_restart_uses_the_latest_command(tmp_path: Path) -> None:
    with supervised(tmp_path, life=600) as process:
        first = tree(process, 3)
        assert process.stdin is not None
        argv = [sys.executable, "-c", "import time; print('second', flush=True); time.sleep(600)"]
        process.stdin.write(json.dumps({"argv": argv}).encode() + b"\n")
        process.stdin.flush()
        time.sleep(0.3)
        os.kill(first[0], signal.SIGKILL)
        wait_for(lambda: (tmp_path / "log").read_text().endswith("second\n"), 20)
        assert running(first) == []


# -- the manager, with a cheap server ---------------------------------------------------------------------------------

ANSWERS = """
    import http.server, pathlib, sys, time
    port, flag = int(sys.argv[1]), pathlib.Path(sys.argv[2])
    if flag.exists():
        time.sleep(600)

    class Health(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()

    http.server.HTTPServer(("127.0.0.1", port), Health).serve_forever()
"""


class Cheap(VllmServer):
    """A server that only says that it is well, under a clock that only a test moves."""

    def __init__(self, model: Path, folder: Path) -> None:
        super().__init__(model, run_dir=folder)
        self.now = 0.0
        self._clock = lambda: self.now
        self.deaf = folder / "deaf"
        (folder / "answers.py").write_text(textwrap.dedent(ANSWERS))

    def _argv(self) -> list[str]:
        return [sys.executable, str(self.log_path.parent / "answers.py"), str(self.port), str(self.deaf)]

    def ready(self) -> bool:
        return self._ready is not None and self._ready[0] == self.restarts

    def die(self, at: float) -> None:
        """Kill the server at that time and wait until that is known."""
        assert self._supervisor is not None
        self.now, before = at, self.restarts
        wait_for(lambda: supervisor.descendants(self._supervisor.pid) != [], 20)  # type: ignore[union-attr]
        os.kill(supervisor.descendants(self._supervisor.pid)[0], signal.SIGKILL)
        wait_for(lambda: self.restarts > before or not self.alive, 20)


@pytest.fixture
def cheap(tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cheap]:
    monkeypatch.setattr(serve, "vllm_flavour", lambda: "cpu")
    with Cheap(tiny_model_dir, tmp_path) as server:
        wait_for(server.ready, 20)
        yield server


def test_two_deaths_in_quick_succession_are_the_end(cheap: Cheap) -> None:
    cheap.die(at=5_000)
    assert (cheap.restarts, cheap.alive) == (1, True)
    wait_for(cheap.ready, 20)
    cheap.die(at=5_000 + serve.SETTLED_S - 1)
    assert (cheap.restarts, cheap.alive) == (1, False)
    with pytest.raises(ServeError, match="vLLM died with exit code -9"):
        cheap.wait_ready(20)
    assert cheap._supervisor is not None
    pid = cheap._supervisor.pid
    wait_for(lambda: running([pid, *supervisor.descendants(pid)]) == [], 20)


def test_a_server_that_has_answered_for_long_may_die_again(cheap: Cheap) -> None:
    for death in (1, 2, 3):
        cheap.die(at=death * serve.SETTLED_S)
        assert (cheap.restarts, cheap.alive) == (death, True)
        wait_for(cheap.ready, 20)
    cheap.die(at=3 * serve.SETTLED_S + 1)
    assert not cheap.alive


def test_a_server_that_is_started_again_has_a_new_life(cheap: Cheap) -> None:
    cheap.die(at=5_000)
    wait_for(cheap.ready, 20)
    cheap.stop()
    cheap.start()
    assert (cheap.restarts, cheap.alive) == (0, True)
    cheap.die(at=5_001)
    assert (cheap.restarts, cheap.alive) == (1, True)


def test_a_model_class_that_takes_too_long_to_load_is_left_to_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "_LOADS", "import time; time.sleep(60)")
    monkeypatch.setattr(needs, "LOAD_TIMEOUT_S", 0.2)
    needs.check_architecture("SlowForCausalLM")


def test_a_restart_that_never_answered_forgives_nothing_however_long_it_took(cheap: Cheap) -> None:
    cheap.deaf.touch()
    cheap.die(at=5_000)
    cheap.die(at=50_000)
    assert not cheap.alive


# -- a real vLLM ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def adapter_dir(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter with weights far from zero."""
    policy = LocalPolicy(tiny_model_dir)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = get_peft_model(policy.model, LoraConfig(r=8, target_modules="all-linear", init_lora_weights=False))
    folder = tmp_path_factory.mktemp("adapters") / "policy-v0001"
    model.save_pretrained(str(folder))
    return folder


async def differs(server: VllmServer, name: str, local: LocalPolicy) -> float:
    """Largest difference between the logprobs that the server reports for `name` and those of `local`."""
    policy = server.policy(name)
    worst = 0.0
    for seed in range(4):
        done = await policy.generate(ACT, Sampling(max_tokens=12, seed=seed))
        assert done.policy_version == name
        scored = local.score(done.prompt_token_ids, done.token_ids)
        worst = max(worst, float(np.abs(np.array(done.logprobs) - scored).max()))
    await policy.aclose()
    return worst


async def test_adapters_come_and_go_under_their_own_names(
    vllm_server: VllmServer, tiny_model_dir: Path, adapter_dir: Path
) -> None:
    base, adapted = LocalPolicy(tiny_model_dir), LocalPolicy(tiny_model_dir, adapter=adapter_dir)
    assert adapted.version == "policy-v0001"
    await asyncio.to_thread(vllm_server.load_adapter, "policy-v0001", adapter_dir)
    try:
        assert await differs(vllm_server, "policy-v0001", adapted) < 0.02
        assert await differs(vllm_server, vllm_server.model_name, base) < 0.02
        assert await differs(vllm_server, "policy-v0001", base) > 0.1
        with pytest.raises(ServeError, match="already served: give every version a name of its own"):
            vllm_server.load_adapter("policy-v0001", adapter_dir)
    finally:
        vllm_server.unload_adapter("policy-v0001")
    with pytest.raises(ServeError, match="'policy-v0001' is not served; adapters are none"):
        vllm_server.unload_adapter("policy-v0001")
    with pytest.raises(ConfigError, match=r"adapter_config\.json is missing"):
        vllm_server.load_adapter("policy-v0002", tiny_model_dir)


async def test_an_adapters_policy_keeps_long_histories_within_the_servers_window(
    vllm_server: VllmServer, adapter_dir: Path
) -> None:
    def build(dropped: int) -> list[Message]:
        return [{"role": "user", "content": f"turn {turn} " + "(1, 2)=3 " * 30} for turn in range(dropped, 24)]

    await asyncio.to_thread(vllm_server.load_adapter, "policy-v0001", adapter_dir)
    try:
        for connect in (True, False):
            policy = OpenAIPolicy(vllm_server.base_url, "policy-v0001", training=True)
            if connect:
                await policy.connect()
            reply = await call(policy, Ask(build, 23, Sampling(max_tokens=8, seed=1)))
            assert policy.context_window == 2048
            assert 0 < reply.dropped < 23
            assert reply.completion.trainable
            assert len(reply.completion.prompt_token_ids) + len(reply.completion.token_ids) <= 2048
            # More than the whole context: vLLM refuses such a number.
            done = await policy.generate(build(reply.dropped), Sampling(max_tokens=4096, seed=1))
            assert done.trainable
            await policy.aclose()
    finally:
        vllm_server.unload_adapter("policy-v0001")


@pytest.mark.slow  # two starts of its own
def test_a_dead_server_comes_back_once_with_its_adapters_and_dies_with_its_parent(
    tiny_model_dir: Path, adapter_dir: Path, tmp_path: Path
) -> None:
    if serve.vllm_flavour() is None:
        pytest.skip(serve.INSTALL_HINT)
    script = SUPPORT / "supervised_server.py"
    parent = subprocess.Popen(
        [sys.executable, str(script), str(tiny_model_dir), str(tmp_path), str(adapter_dir)], stdout=subprocess.PIPE
    )
    pids: list[int] = []

    def told() -> dict[str, Any]:
        assert parent.stdout is not None
        line = parent.stdout.readline()
        assert line, "the parent ended early"
        facts: dict[str, Any] = json.loads(line)
        pids.extend(facts["pids"])
        return facts

    try:
        first = told()
        engines = [pid for pid in first["pids"] if "EngineCore" in " ".join(psutil.Process(pid).cmdline())]
        assert engines, "the engine runs in a process of its own"
        # The worst death: the API server stays, the engine behind it is gone.
        os.kill(engines[0], signal.SIGKILL)
        second = told()
        assert second["restarts"] == 1
        assert second["answered"] == {"policy-v0001": True, tiny_model_dir.name: True}
        assert running(first["pids"][1:]) == []
        parent.kill()
        parent.wait()
        wait_for(lambda: running(pids) == [], 20)
        log = (tmp_path / "server.log").read_text()
        assert log.count("Application startup complete") == 2
    finally:
        parent.kill()
        parent.wait()


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_serving_strangers_needs_a_key(tiny_model_dir: Path) -> None:
    with pytest.raises(ConfigError, match=r"serving on 0\.0\.0\.0 needs an API key"):
        VllmServer(tiny_model_dir, host="0.0.0.0")
    VllmServer(tiny_model_dir, host="127.0.0.2")


def test_the_key_is_in_the_environment_and_nowhere_on_the_command_line(tiny_model_dir: Path) -> None:
    server = VllmServer(tiny_model_dir, host="0.0.0.0", api_key="sk-secret")
    assert "sk-secret" not in " ".join(server._argv()) + repr(server)
    assert server._environment()["VLLM_API_KEY"] == "sk-secret"
    assert "sk-secret" not in repr(server.policy())


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"model": "no/such/folder"}, "no model at no/such/folder"),
        ({"model_name": "--host"}, "model name '--host' must be letters"),
        ({"adapters": {"a": "."}}, r"adapter_config\.json is missing"),
        ({"port": 70_000}, "port 0 to 65535"),
        ({"max_adapters": -1}, "max_adapters must be >= 0"),
        ({"max_lora_rank": 0}, "max_lora_rank and max_model_len must be at least 1"),
        ({"max_model_len": 0}, "max_lora_rank and max_model_len must be at least 1"),
    ],
)
def test_what_cannot_be_served_is_refused_before_anything_starts(
    tiny_model_dir: Path, options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        VllmServer(**{"model": tiny_model_dir, **options})


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no readable config\.json"):
        VllmServer(tmp_path)


def test_a_port_in_use_is_an_error_and_not_another_servers_health(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "vllm_flavour", lambda: "cpu")
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(ServeError, match=f"cannot listen on 127.0.0.1:{taken.getsockname()[1]}: Address already in use"),
    ):
        VllmServer(tiny_model_dir, port=taken.getsockname()[1]).start()


def test_without_vllm_the_error_says_what_to_run(tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "vllm_flavour", lambda: None)
    with pytest.raises(ServeError, match=r"run `make setup`, or `pip install 'lamer-graph\[serve\]'`"):
        VllmServer(tiny_model_dir).start()


async def test_a_server_that_dies_at_the_start_quotes_its_log(tiny_model_dir: Path, tmp_path: Path) -> None:
    if serve.vllm_flavour() is None:
        pytest.skip(serve.INSTALL_HINT)
    # Its parser takes the number, its configuration does not.
    server = VllmServer(tiny_model_dir, run_dir=tmp_path, extra_args=["--max-num-seqs=-3"])
    with pytest.raises(ServeError, match=r"server\.log\): .*SchedulerConfig"):
        async with server:
            pass
    assert not server.alive
    strays = [p.pid for p in psutil.process_iter(["cmdline"]) if "--max-num-seqs=-3" in (p.info["cmdline"] or [])]
    assert strays == []
