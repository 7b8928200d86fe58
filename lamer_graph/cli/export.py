"""`lamer-graph export`: what a training came to, as a model folder to hand on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lamer_graph.cli.checks import TRAINING_NEEDS, check_installed, check_new
from lamer_graph.cli.frame import Json, Ui, command
from lamer_graph.errors import ConfigError

RunArgument = Annotated[
    Path,
    typer.Argument(metavar="RUN", show_default=False, help="A training run's folder, or the folder of an adapter."),
]
OutOption = Annotated[
    Path, typer.Option("--out", metavar="DIR", show_default=False, help="Folder for the model; must not exist yet.")
]
LastOption = Annotated[bool, typer.Option("--last", help="The last weights. Default: those that validated best.")]
PushOption = Annotated[
    str | None,
    typer.Option(
        "--push",
        metavar="OWNER/NAME",
        show_default=False,
        help="Also upload it to this repository of the hub, private if it is new; the key is huggingface_hub's own.",
    ),
]


def register(app: typer.Typer) -> None:
    @command(
        app,
        "export",
        examples=[
            ("lamer-graph export runs/meta --out models/mine", "The best weights of a training, whole."),
            ("lamer-graph export runs/meta/adapter --out models/mine", "An adapter, merged into its base."),
            ("lamer-graph export runs/meta --out models/mine --push me/mine", "And on the hub."),
        ],
    )
    def export(ui: Ui, run: RunArgument, out: OutOption, last: LastOption = False, push: PushOption = None) -> Json:
        """Write a trained policy as a model folder: safetensors with an adapter merged, tokenizer, chat template, card.

        The card says what it was trained on, with which memory, and what it read in validation.

        Every --policy takes it, and so does whatever reads models in Hugging Face format.
        """
        check_new(out, "choose another folder, so that no model is overwritten")
        if not run.is_dir():
            raise ConfigError(f"no run at {run}: there is no such folder")
        check_installed("export", TRAINING_NEEDS)
        from rich.markup import escape

        from lamer_graph.policies.hub import check_pushable
        from lamer_graph.policies.hub import push as pushed
        from lamer_trainers.loop.export import export as exported

        if push is not None:
            check_pushable(push)
        made = exported(run, out, last=last)
        read = "" if made.reading is None else f", validation pass@{len(made.reading)} {made.reading[-1]:.3f}"
        ui.print(escape(f"{out}: {made.parameters / 1e6:.2f} M parameters in {made.dtype}, from {made.weights}{read}"))
        address = None
        if push is not None:
            ui.working()
            address = pushed(out, push)
            ui.print(escape(f"pushed to {address}"))
        ui.print(escape(f"next: lamer-graph eval --policy {out} --tasks 400"))
        return {
            "out": str(out),
            "weights": str(made.weights),
            "parameters": made.parameters,
            "dtype": made.dtype,
            "validation": made.reading,
            "pushed": address,
        }
