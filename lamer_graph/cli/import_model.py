"""`lamer-graph import`: a model from elsewhere, as a folder that everything here plays, trains and serves."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated, Literal

import typer

from lamer_graph.cli.frame import Json, Ui, command
from lamer_graph.errors import ConfigError

SourceArgument = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE", show_default=False, help="A GGUF file, a wheel or zip with one, a model folder, or a hub id."
    ),
]
OutOption = Annotated[
    Path, typer.Option("--out", metavar="DIR", show_default=False, help="Folder for the model; must not exist yet.")
]
TemplateOption = Annotated[
    Path | None,
    typer.Option(
        "--chat-template", metavar="FILE", show_default=False, help="A Jinja chat template, for a model without one."
    ),
]
DtypeOption = Annotated[
    Literal["float32", "bfloat16"],
    typer.Option("--dtype", help="What weights are kept as: float32 for CPUs, bfloat16 is half the size."),
]


def register(app: typer.Typer) -> None:
    @command(
        app,
        "import",
        examples=[
            ("lamer-graph import model.Q4_1.gguf --out models/mine", "A quantised file, dequantised once."),
            ("lamer-graph import HuggingFaceTB/SmolLM2-135M-Instruct --out models/smollm2", "From the hub."),
            ("lamer-graph import base --chat-template chatml.jinja --out models/base-chat", "A base model, with one."),
        ],
    )
    def import_(
        ui: Ui,
        source: SourceArgument,
        out: OutOption,
        chat_template: TemplateOption = None,
        dtype: DtypeOption = "float32",
    ) -> Json:
        """Make a policy folder from a pretrained model: weights, tokenizer, chat template, and a card of its origin.

        `make smollm2` does so for SmolLM2-135M-Instruct, which two CPU cores can play and train.
        """
        if out.exists():  # before torch is imported, which takes seconds
            raise ConfigError(f"{out} exists already; choose another folder, so that no model is overwritten")
        for module in ("torch", "transformers"):
            if importlib.util.find_spec(module) is None:
                raise ConfigError(f"import needs {module}: run `make setup`, or pip install 'lamer-graph[train]'")
        from lamer_graph.policies.importing import import_model

        made = import_model(source, out, dtype=dtype, chat_template=chat_template, note=ui.note)
        ui.print(f"{made.folder}: {made.architecture}, {made.parameters / 1e6:.1f} M parameters, {made.dtype}")
        ui.print(
            f"play it with: lamer-graph eval --policy {made.folder} --env minesweeper:4x4-3 --tasks 8", soft_wrap=True
        )
        said = {"architecture": made.architecture, "parameters": made.parameters, "dtype": made.dtype}
        return {"out": str(made.folder), **said, "origin": made.origin}
