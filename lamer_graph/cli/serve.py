"""`lamer-graph serve`: a policy, and adapters trained on it, behind vLLM's OpenAI-compatible server."""

from __future__ import annotations

import json
import os
import shlex
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from lamer_graph.cli.frame import Json, Ui, command
from lamer_graph.cli.options import (
    DEFAULT_ENV,
    EnvOption,
    HostOption,
    Player,
    PortOption,
    TemplateOption,
    template_of,
)
from lamer_graph.cli.shown import one_line
from lamer_graph.errors import ConfigError, ServeError
from lamer_graph.policies.shipped import base_of, card, is_adapter, taught_style

PolicyOption = Annotated[
    Path | None,
    typer.Option(
        "--policy",
        metavar="DIR",
        show_default=False,
        help="A model in Hugging Face format, an adapter of one, or a hub id. Default: what ships for --env.",
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option("--model", metavar="NAME", show_default=False, help="Name it is served under. Default: the folder's."),
]
AdapterOption = Annotated[
    list[str] | None,
    typer.Option("--adapter", metavar="NAME=DIR", show_default=False, help="A trained LoRA adapter; may be repeated."),
]
ContextOption = Annotated[
    int | None,
    typer.Option(
        "--max-model-len", metavar="TOKENS", min=1, show_default=False, help="Context served. Default: the model's own."
    ),
]
TensorOption = Annotated[
    int, typer.Option("--tensor-parallel", metavar="N", min=1, help="CUDA devices that hold the weights together.")
]
DataOption = Annotated[
    int, typer.Option("--data-parallel", metavar="N", min=1, help="How often the weights are there, on devices each.")
]
DtypeOption = Annotated[
    Literal["auto", "float32", "bfloat16"],
    typer.Option("--dtype", help="What it computes in; auto: as stored, but for float32 on a GPU."),
]
GpuMemoryOption = Annotated[
    float | None,
    typer.Option(
        "--gpu-memory",
        metavar="SHARE",
        min=0.01,
        max=1,
        show_default=False,
        help="Share of a device that it reserves. Default: vLLM's own.",
    ),
]
ExtraArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[-- VLLM'S OWN ..]",
        show_default=False,
        help="More arguments for vLLM, e.g. -- --max-num-seqs 64; none that is set here already.",
    ),
]
RunOption = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", show_default=False, help="Folder for the server's log."),
]


def register(app: typer.Typer) -> None:
    @command(
        app,
        "serve",
        main=("--policy", "--env", "--adapter", "--host", "--port", "--max-model-len", "--tensor-parallel"),
        examples=[
            ("lamer-graph serve --policy examples/policies/minesweeper-warmstart --port 8000", "Serve until Ctrl-C."),
            (
                "lamer-graph play --base-url http://127.0.0.1:8000/v1 --prompt-style compact",
                "In another terminal: let it play. A server does not say which prompts its policy was taught.",
            ),
            (
                "lamer-graph serve --policy DIR --adapter policy-v0007=runs/first/adapters/0007",
                "Serve a model together with an adapter that was trained on it.",
            ),
            (
                "lamer-graph serve --policy Qwen/Qwen3-4B --tensor-parallel 2 -- --max-num-seqs 64",
                "A model of the hub on two devices, with an argument of vLLM's own.",
            ),
        ],
    )
    def serve(
        ui: Ui,
        policy: PolicyOption = None,
        env: EnvOption = DEFAULT_ENV,
        model: ModelOption = None,
        adapter: AdapterOption = None,
        host: HostOption = "127.0.0.1",
        port: PortOption = 8000,
        max_model_len: ContextOption = None,
        tensor_parallel: TensorOption = 1,
        data_parallel: DataOption = 1,
        dtype: DtypeOption = "auto",
        gpu_memory: GpuMemoryOption = None,
        run: RunOption = None,
        template: TemplateOption = None,
        extra: ExtraArgument = None,
    ) -> Json | None:
        """Start vLLM with a policy and keep it running until Ctrl-C.

        With --json the document is printed as soon as the server is healthy. The server dies with this process,
        whatever kills it; a server that crashes is restarted, unless it crashes again within ten minutes.
        """
        from rich.text import Text

        from lamer_graph.policies.hub import is_hub_id
        from lamer_graph.policies.transport import API_KEY_ENV
        from lamer_graph.serving.needs import check_servable
        from lamer_graph.serving.vllm import INSTALL_HINT, VllmServer, vllm_flavour

        folder = Player(policy=policy).folder(env)
        assert folder is not None
        if vllm_flavour() is None:
            raise ConfigError(INSTALL_HINT)
        adapters = _adapters(adapter or [])
        if is_adapter(folder):
            adapters = {folder.resolve().name: folder, **adapters}
            folder = base_of(folder)
        server = VllmServer(
            folder.resolve(),
            # A folder of the hub's cache is named by a hash.
            model_name=str(policy) if model is None and policy is not None and is_hub_id(policy) else model,
            adapters=adapters,
            host=host,
            port=port,
            api_key=os.environ.get(API_KEY_ENV),
            run_dir=run,
            max_model_len=max_model_len,
            template_args=template_of(template),
            tensor_parallel=tensor_parallel,
            data_parallel=data_parallel,
            dtype=dtype,
            gpu_memory=gpu_memory,
            extra_args=extra or [],
            on_progress=ui.note,
        )
        check_servable(folder)
        if idle := _idle(os.environ.get("CUDA_VISIBLE_DEVICES"), tensor_parallel * data_parallel):
            ui.remark(f"{idle}: raise --tensor-parallel or --data-parallel, or name fewer in CUDA_VISIBLE_DEVICES")
        signal.signal(signal.SIGTERM, _stop)
        ui.working()
        try:
            with server:
                document = {
                    "base_url": server.base_url,
                    "model": server.model_name,
                    "adapters": sorted(server.adapters),
                    "log": str(server.log_path),
                }
                ui.emit(document)
                ui.print(f"[green]{server.model_name}[/] is served at {server.base_url}, log {server.log_path}")
                served = server.model_name, server.adapters, server.template_args
                for line in play_lines(env, server.base_url, folder, *served):
                    ui.print(Text(line), soft_wrap=True)
                ui.print("Ctrl-C stops it")
                while server.alive:
                    time.sleep(0.5)
                raise ServeError(f"vLLM died and did not come back; its log is {server.log_path}")
        except KeyboardInterrupt:
            ui.note("stopped")
        return None


def play_lines(
    env: str,
    base_url: str,
    folder: Path,
    model: str,
    adapters: Mapping[str, Path],
    template_args: Mapping[str, Any] | None = None,
) -> Iterator[str]:
    """How each served model is played with: its environment and prompts by its own card, which no server tells, nor
    what it renders them with, which a log should say."""
    for name, place in {model: folder, **adapters}.items():
        about = card(place)
        words = ["lamer-graph", "play", "--env", str(about.get("env", env)), "--base-url", base_url]
        if adapters:
            words += ["--model", name]
        if taught_style(place) == "compact":
            words += ["--prompt-style", "compact"]
        for key, value in (template_args or {}).items():
            words += ["--template", f"{key}={json.dumps(value)}"]
        yield "play with it: " + one_line(shlex.join(words))


def _idle(visible: str | None, used: int) -> str | None:
    """What to say of devices that are named for the server and that it does not use."""
    named = [device for device in (visible or "").split(",") if device.strip()]
    return f"{len(named) - used} of the {len(named)} devices will be idle" if len(named) > used else None


def _adapters(given: list[str]) -> dict[str, Path]:
    adapters: dict[str, Path] = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not (name and equals and path):
            raise ConfigError(f"--adapter {text!r} must be NAME=DIR, e.g. policy-v0007=runs/first/adapters/0007")
        if name in adapters:
            raise ConfigError(f"--adapter {name} is given twice: every version needs a name of its own")
        adapters[name] = Path(path)
    return adapters


def _stop(number: int, frame: Any) -> None:
    raise KeyboardInterrupt
