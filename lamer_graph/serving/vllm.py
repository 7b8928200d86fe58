"""vLLM as a child process: started, watched, restarted unless it keeps dying, and gone when we are gone.

What must stay true: no process of the server outlives this one (a supervisor process sees to it, see supervisor.py);
nothing listens beyond loopback without an API key, and the key travels by environment variable only, never on a command
line or in a log. The server reports `processed_logprobs`, those of the sampling distribution, which is what a trainer
divides by, and takes every sampling number from the request (`--generation-config vllm`).

Weights are replaced by adapters under new names (`load_adapter`): reloading full weights is silently wrong on the CPU.
A restart brings back every adapter that was loaded. A server that can sleep has vLLM's development routes open to
everybody on this machine, whatever the key, so it listens on loopback alone. With a key, vLLM guards `/v1/*`;
`/health`, `/metrics` and `/tokenize` stay open, so put a proxy in front of a server that strangers can reach.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import httpx2

from lamer_graph.errors import ConfigError, ServeError
from lamer_graph.policies.address import is_loopback
from lamer_graph.policies.control import control_tokens_of
from lamer_graph.policies.fingerprint import base_fingerprint, check_adapter
from lamer_graph.policies.openai import OpenAIPolicy
from lamer_graph.policies.rendering import Renderer
from lamer_graph.serving import supervisor
from lamer_graph.serving.arguments import Launch, check_extra, check_parallel
from lamer_graph.serving.lines import log_tail, one_line
from lamer_graph.serving.needs import CPU_CACHE_GIB, check_memory, check_name, claim_port, find_model
from lamer_graph.serving.needs import vllm_flavour as vllm_flavour
from lamer_graph.serving.templates import check_taught, local_renderer, served_template

INSTALL_HINT = (
    "vLLM is not installed: run `make setup`, or `pip install 'lamer-graph[serve]'` on a GPU machine; "
    "the in-process LocalPolicy needs no server"
)
LORA_RANK = 64
"""Highest rank of an adapter that is served unless asked for more."""
RESTARTS = 1
"""Deaths in quick succession that are mended; the next one is the end."""
SETTLED_S = 600.0
"""A server that has answered for this long since its last start is sound: its earlier deaths are forgiven."""
READY_POLL_S = 0.5
STOP_TIMEOUT = 20.0


class VllmServer:
    """A vLLM server for `model` (a folder in Hugging Face format, or a hub id such as `org/name`).

    Use it as a context manager, sync or async. `port=0` takes a free one. `adapters` maps names to PEFT folders that
    are loaded at start; `max_adapters` more can be alive at a time (0 switches LoRA off). The log goes to
    `run_dir/server.log` (a temporary folder if None). `on_progress` gets a line of text about once a second during the
    start. `devices` is the server's CUDA_VISIBLE_DEVICES (None: the caller's). `template_args` are those of the
    chat template in every prompt (None: as the cards of model and adapters say). With `can_sleep` it gives its device's
    memory away between `sleep` and `wake`, which needs CUDA. `tensor_parallel` devices hold the weights together, and
    `data_parallel` is how often they are there; `gpu_memory` is the share of a device that vLLM reserves and `dtype`
    what it computes in (`auto`: see `arguments.Launch`). `extra_args` are vLLM's own, but for what is set here.

    Raises ConfigError for what is asked (before anything is started) and ServeError for what happens.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        model_name: str | None = None,
        adapters: Mapping[str, str | Path] | None = None,
        max_adapters: int = 2,
        max_lora_rank: int = LORA_RANK,
        host: str = "127.0.0.1",
        port: int = 0,
        api_key: str | None = None,
        run_dir: str | Path | None = None,
        max_model_len: int | None = None,
        start_timeout: float = 600.0,
        devices: str | None = None,
        can_sleep: bool = False,
        template_args: Mapping[str, Any] | None = None,
        tensor_parallel: int = 1,
        data_parallel: int = 1,
        dtype: str = "auto",
        gpu_memory: float | None = None,
        extra_args: Sequence[str] = (),
        on_progress: Callable[[str], None] | None = None,
    ) -> None:
        self.model, config = find_model(model)
        self.model_name = model_name or (self.model.name if isinstance(self.model, Path) else self.model)
        check_name("model", self.model_name)
        if not is_loopback(host) and not api_key:
            raise ConfigError(f"serving on {host} needs an API key: others could use the model and load adapters")
        if can_sleep and not is_loopback(host):
            raise ConfigError(f"a server that can sleep has unguarded routes: serve it on 127.0.0.1, not on {host}")
        if max_adapters == 0 and not adapters and max_lora_rank != LORA_RANK:
            raise ConfigError("max_lora_rank is for adapters, and max_adapters=0 switches them off")
        if max_adapters < 0 or not 0 <= port < 65536 or start_timeout <= 0:
            raise ConfigError("max_adapters must be >= 0, port 0 to 65535 and start_timeout > 0")
        if max_lora_rank < 1 or (max_model_len is not None and max_model_len < 1):
            raise ConfigError("max_lora_rank and max_model_len must be at least 1")
        folders = [Path(folder).expanduser() for folder in (adapters or {}).values()]
        self.template_args = served_template(self.model, folders, template_args)
        self._decided = template_args is not None
        self.adapters = {name: self._adapter(name, path) for name, path in (adapters or {}).items()}
        check_parallel(tensor_parallel, data_parallel, devices, config)
        check_extra(extra_args)
        self._max_adapters = max(max_adapters, len(self.adapters))
        self._launch = Launch(
            model=self.model,
            model_name=self.model_name,
            config=config,
            host=host,
            max_adapters=self._max_adapters,
            max_lora_rank=max_lora_rank,
            max_model_len=max_model_len,
            can_sleep=can_sleep,
            template_args=self.template_args,
            dtype=dtype,
            gpu_memory=gpu_memory,
            tensor_parallel=tensor_parallel,
            data_parallel=data_parallel,
            extra_args=tuple(extra_args),
        )
        if isinstance(self.model, Path):
            check_memory(self.model, self._launch.computes_in(vllm_flavour() or "cpu"), tensor_parallel, devices)
        self._host = host
        self._port = port
        self._api_key = api_key
        self._run_dir = Path(run_dir).absolute() if run_dir is not None else None
        self._start_timeout = start_timeout
        self._devices = devices
        self._can_sleep = can_sleep
        self._on_progress = on_progress
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._clock: Callable[[], float] = time.monotonic
        self._flavour: Literal["cpu", "gpu"] = "cpu"
        self._deaths = 0
        """Since the server was last sound."""
        self._ready: tuple[int, float] | None = None
        """Number of the latest start that has answered (`restarts` at the time), and since when."""
        self.restarts = 0
        """How often the server died and was started again."""
        self._dead: str | None = None

    # -- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Start the server and wait until it is healthy. Raises ServeError with the log's last lines."""
        if self._supervisor is not None:
            return self
        flavour = vllm_flavour()
        if flavour is None:
            raise ServeError(INSTALL_HINT)
        if self._run_dir is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="lamer-serve-")
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        self._port = claim_port(self._host, self._port)
        self._flavour = flavour
        self._dead = None
        self.restarts = self._deaths = 0
        self._ready = None
        self._supervisor = subprocess.Popen(
            [sys.executable, "-I", supervisor.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self._environment(),
            # Not the caller's folder, whose modules would shadow vLLM's; and no Ctrl-C meant for the caller.
            cwd=self.log_path.parent,
            start_new_session=True,
        )
        self._tell(argv=self._argv(), log=str(self.log_path), restarts=sys.maxsize, parent=os.getpid())
        threading.Thread(target=self._watch, args=(self._supervisor,), name="lamer-serve", daemon=True).start()
        try:
            self.wait_ready(self._start_timeout)
        except BaseException:
            self.stop()
            raise
        return self

    def wait_ready(self, timeout: float) -> None:
        """Block until the server answers, e.g. after a restart. Raises ServeError if it died or `timeout` s passed."""
        begun = time.monotonic()
        told = -1
        with httpx2.Client(timeout=2.0, trust_env=False) as client:
            while True:
                # A server that never became healthy is not tried again: the second attempt would fail the same way.
                if self._supervisor is None or self._dead is not None or (self.restarts and self._ready is None):
                    raise ServeError(f"vLLM {self._dead or 'died'} {log_tail(self.log_path, self._api_key)}")
                start = self.restarts
                with contextlib.suppress(httpx2.HTTPError):
                    if client.get(f"{self._root}/health").status_code == 200:
                        self._ready = (start, self._clock())
                        return
                waited = time.monotonic() - begun
                if waited > timeout:
                    raise ServeError(
                        f"vLLM was not healthy within {timeout:g} s {log_tail(self.log_path, self._api_key)}"
                    )
                if self._on_progress is not None and int(waited) > told:
                    told = int(waited)
                    self._on_progress(f"starting vLLM for {self.model_name} on {self._root}: {told} s")
                time.sleep(0.2)

    def stop(self) -> None:
        """End the server and everything it started; doing it again does nothing."""
        process, self._supervisor = self._supervisor, None
        if process is not None:
            if process.stdin is not None:
                # The end of the pipe is the order to stop.
                with contextlib.suppress(OSError):
                    process.stdin.close()
            try:
                process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                for pid in [*supervisor.descendants(process.pid), process.pid]:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, 9)
                process.wait()
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)

    # -- use ----------------------------------------------------------------------------------------------------------

    @property
    def base_url(self) -> str:
        """OpenAI-style address, `/v1` included."""
        return f"{self._root}/v1"

    @property
    def port(self) -> int:
        return self._port

    @property
    def log_path(self) -> Path:
        folder = self._run_dir or Path(self._temporary.name if self._temporary else tempfile.gettempdir())
        return folder / "server.log"

    @functools.cached_property
    def fingerprint(self) -> dict[str, str]:
        """What an adapter must have been trained on (see fingerprint.py); empty for a model from the hub."""
        return base_fingerprint(self.model) if isinstance(self.model, Path) else {}

    @property
    def alive(self) -> bool:
        """False before the start, after the end, and once the server has died too often in quick succession."""
        return self._supervisor is not None and self._dead is None

    def policy(self, model: str | None = None, **options: Any) -> OpenAIPolicy:
        """An OpenAIPolicy for this server (`model`: an adapter's name): of exact tokens, and it outwaits the restart of
        a dead server."""
        renderer = self._renderer
        usual = {"outage_s": 180.0, "training": True, "template_args": self.template_args}
        if renderer is not None:
            usual["fold_system"] = renderer.folds_system
        policy = OpenAIPolicy(self.base_url, model or self.model_name, api_key=self._api_key, **{**usual, **options})
        if renderer is not None:
            policy.control_tokens = control_tokens_of(renderer.tokenizer)
            if policy.template_args == self.template_args:
                policy.opening, policy.thinks = renderer.opening, renderer.thinks
        return policy

    @functools.cached_property
    def _renderer(self) -> Renderer | None:
        return local_renderer(self.model, self.template_args)

    def load_adapter(self, name: str, path: str | Path) -> None:
        """Serve the PEFT adapter in `path` as model `name`, from now on and after a restart.

        Every version needs a new name: vLLM would answer from the old one's cached prefixes. Raises ServeError.
        """
        folder = self._adapter(name, path)
        with self._lock:
            if name in self.adapters or name == self.model_name:
                raise ServeError(f"'{name}' is already served: give every version a name of its own")
            if self._max_adapters == 0:
                raise ServeError("this server was started with max_adapters=0 and takes no adapters")
            self._post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder), "load_inplace": False})
            self.adapters[name] = folder
            self._tell(argv=self._argv())

    def unload_adapter(self, name: str) -> None:
        """Stop serving the adapter `name`. Raises ServeError."""
        with self._lock:
            if name not in self.adapters:
                raise ServeError(f"'{name}' is not served; adapters are {', '.join(self.adapters) or 'none'}")
            self._post("/v1/unload_lora_adapter", {"lora_name": name})
            del self.adapters[name]
            self._tell(argv=self._argv())

    def sleep(self) -> None:
        """Move the weights off the device and drop the cache, once what is asked for is answered (vLLM's level 1).

        Raises ServeError.
        """
        self._sleeping("/sleep?level=1&mode=wait", "sleeping")

    def wake(self) -> None:
        """Take the device's memory again; a server that is awake stays so. Raises ServeError."""
        self._sleeping("/wake_up", "awake")

    # -- inside -------------------------------------------------------------------------------------------------------

    def _sleeping(self, path: str, wanted: str) -> None:
        if not self._can_sleep:
            raise ServeError("this server was started without can_sleep")
        said = self._post(path, {})
        if f'"{wanted}"' not in said:
            raise ServeError(f"vLLM is not {wanted} after {path}: {one_line(said)}")

    def _adapter(self, name: str, path: str | Path) -> Path:
        """The adapter's folder, if it can be served under that name on this model. Raises ConfigError."""
        folder = Path(path).expanduser().resolve()
        check_name("adapter", name)
        if not (folder / "adapter_config.json").is_file():
            raise ConfigError(f"no adapter at {folder}: adapter_config.json is missing")
        if isinstance(self.model, Path):
            check_adapter(folder, self.model, self.fingerprint)
        if not self._decided:
            check_taught(folder, self.template_args)
        return folder

    @property
    def _root(self) -> str:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._host, self._host)
        return f"http://[{host}]:{self._port}" if ":" in host else f"http://{host}:{self._port}"

    def _argv(self) -> list[str]:
        return self._launch.argv(self._flavour, self._port, self.adapters)

    @property
    def dtype(self) -> str:
        """What vLLM computes in, known once started."""
        return self._launch.computes_in(self._flavour)

    def _environment(self) -> dict[str, str]:
        env = dict(os.environ)
        env.pop("VLLM_API_KEY", None)
        env.update(VLLM_ALLOW_RUNTIME_LORA_UPDATING="True", VLLM_NO_USAGE_STATS="1", DO_NOT_TRACK="1")
        if self._flavour == "cpu":
            env.setdefault("VLLM_CPU_KVCACHE_SPACE", CPU_CACHE_GIB)
        if isinstance(self.model, Path):
            env["HF_HUB_OFFLINE"] = "1"
        if self._devices is not None:
            env["CUDA_VISIBLE_DEVICES"] = self._devices
        if self._can_sleep:
            env["VLLM_SERVER_DEV_MODE"] = "1"  # or there is no route to put it to sleep
        if self._api_key:
            env["VLLM_API_KEY"] = self._api_key
        return env

    def _tell(self, **message: object) -> None:
        """One line to the supervisor. A broken pipe means that it is gone, which `_watch` reports."""
        if self._supervisor is not None and self._supervisor.stdin is not None:
            with contextlib.suppress(OSError):
                self._supervisor.stdin.write(json.dumps(message).encode() + b"\n")
                self._supervisor.stdin.flush()

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        """Follow the supervisor's events on a thread until its end.

        It would restart the server for ever: when to stop is judged here, where it is known whether it has answered.
        """
        assert process.stdout is not None
        for line in process.stdout:
            event = json.loads(line)
            if event["event"] == "started":
                started = (self.restarts,)
                threading.Thread(target=self._note_ready, args=started, name="lamer-ready", daemon=True).start()
            elif event["event"] == "exited" and self._mendable():
                self.restarts += 1
            elif event["event"] == "exited":
                self._dead = f"died with exit code {event['code']}"
                process.terminate()  # the supervisor, which ends what it has just started
                break
        if self._supervisor is process and self._dead is None:
            self._dead = "lost its supervisor"

    def _mendable(self) -> bool:
        """Count a death; whether the server may live on."""
        start, since = self._ready or (-1, 0.0)
        sound = start == self.restarts and self._clock() - since >= SETTLED_S
        self._deaths = 1 if sound else self._deaths + 1
        return self._deaths <= RESTARTS

    def _note_ready(self, start: int) -> None:
        """Wait until this start of the server answers, or is over, and note when. On a thread."""
        with httpx2.Client(timeout=2.0, trust_env=False) as client:
            while self.alive and self.restarts == start:
                with contextlib.suppress(httpx2.HTTPError):
                    if client.get(f"{self._root}/health").status_code == 200:
                        self._ready = (start, self._clock())
                        return
                time.sleep(READY_POLL_S)

    def _post(self, path: str, body: dict[str, object]) -> str:
        """What vLLM answered. Raises ServeError."""
        if not self.alive:
            raise ServeError(f"vLLM is not running: {self._dead or 'start it first'}")
        headers = {"Authorization": f"Bearer {self._api_key}"} if self._api_key else {}
        try:
            response = httpx2.post(f"{self._root}{path}", json=body, headers=headers, timeout=60.0, trust_env=False)
        except httpx2.HTTPError as error:
            raise ServeError(f"vLLM at {self._root} did not take {path}: {type(error).__name__}") from None
        if response.status_code != 200:
            raise ServeError(f"vLLM refused {path} ({response.status_code}): {one_line(response.text)}")
        return response.text
