"""`lamer-graph gateway`: a proxy before a model's server that records an agent's calls for training."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from lamer_graph.cli.frame import Json, Ui, command
from lamer_graph.cli.options import HostOption, PortOption
from lamer_graph.errors import ConfigError

UPSTREAM_KEY_ENV = "LAMER_UPSTREAM_API_KEY"

UpstreamOption = Annotated[
    str, typer.Option("--upstream", metavar="URL", help="The model's server, such as a vLLM: http://127.0.0.1:8000.")
]
OutOption = Annotated[
    Path, typer.Option("--out", metavar="DIR", help="Folder of the run log; a log that is there is continued.")
]
NameOption = Annotated[
    str, typer.Option("--name", metavar="NAME", help="The agent's name: its tasks are app:NAME in the log.")
]
TimeoutOption = Annotated[
    float, typer.Option("--timeout", metavar="SECONDS", min=1, help="Longest silence of the model's server.")
]


def register(app: typer.Typer) -> None:
    @command(
        app,
        "gateway",
        examples=[
            (
                "lamer-graph gateway --upstream http://127.0.0.1:8000 --out runs/agent",
                "Agents call http://127.0.0.1:8100/v1 in place of the server's own address.",
            ),
            (
                'curl -X POST http://127.0.0.1:8100/lamer/trials -d \'{"task": "What is 2 + 2?"}\'',
                "Opens a trial; its api_key is the agent's for this trial, and tells its calls from others'.",
            ),
            (
                "curl -X POST http://127.0.0.1:8100/lamer/trials/TRIAL/attempts -d '{\"success\": false}'",
                "Grades the attempt; the next call begins another. .../end writes the trial to the log.",
            ),
        ],
    )
    def gateway(
        ui: Ui,
        upstream: UpstreamOption,
        out: OutOption,
        name: NameOption = "agent",
        host: HostOption = "127.0.0.1",
        port: PortOption = 8100,
        timeout: TimeoutOption = 600.0,
    ) -> Json | None:
        """Record what any agent asks a model and what that says, with exact tokens, until Ctrl-C.

        For agents that are not LangChain's: whatever speaks OpenAI's chat completions. LAMER_API_KEY is the key that
        this server asks of whoever opens, grades and ends trials, LAMER_UPSTREAM_API_KEY the one that it sends on.
        With --json the document is printed as soon as the server listens.
        """
        from lamer_graph.policies.transport import API_KEY_ENV
        from lamer_graph.runlog import RunLog
        from lamer_graph.web.gateway.app import Gateway
        from lamer_graph.web.gateway.relay import Relay
        from lamer_graph.web.listening import Listening

        if not name.isidentifier():
            raise ConfigError(f"--name must be one word of letters, digits and underscores, not {name!r}")
        key = os.environ.get(API_KEY_ENV, "").strip() or None
        relay = Relay(upstream, os.environ.get(UPSTREAM_KEY_ENV, "").strip() or None, timeout)
        with RunLog.create(out, resume=True) as log:
            made = Gateway(relay, log, name=name, key=key)
            listening = Listening(made.app, host, port, keyed=key is not None)
            if waiting := len(made.open_trials):
                ui.remark(f"{waiting} trial(s) are open from before: they go on")
            ui.working()
            ui.emit({"base_url": f"{listening.base_url}/v1", "upstream": relay.address, "log": str(out)})
            ui.print(f"[green]{relay.address}[/] is recorded at {listening.base_url}/v1, into {out}; Ctrl-C stops it")
            listening.run()
            ui.note("stopped")
        return None
