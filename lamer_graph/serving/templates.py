"""How a server renders prompts: the chat template's arguments that its policies were played with.

What must stay true: a server renders as the cards of its model and adapters say, as a policy in this process would, and
those that say different things are not served together unless somebody decides for all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lamer_graph.errors import ConfigError
from lamer_graph.policies.rendering import (
    Renderer,
    check_template_args,
    has_template,
    no_template,
    shown,
    template_text,
)
from lamer_graph.policies.shipped import taught_template


def served_template(model: Path | str, adapters: Iterable[Path], given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Arguments for every prompt: as `given`, or as the model's card says, or else an adapter's. Raises ConfigError."""
    if isinstance(model, Path) and not has_template(model):  # of what is not here, the server itself will tell
        raise ConfigError(no_template(str(model)))
    folders = [Path(model), *adapters]
    found = given if given is not None else taught_template(*folders) or {}
    check_template_args(found, template_text(Path(model)), str(model))
    args = dict(found)
    if given is None:
        for folder in folders:
            check_taught(folder, args)
    return args


def check_taught(folder: Path, args: Mapping[str, Any]) -> None:
    """Raises ConfigError if the card of a model or adapter says that it was played with other arguments."""
    taught = taught_template(folder)
    if taught is not None and taught != args:
        raise ConfigError(
            f"{folder} was played with prompts rendered with {shown(taught)}, and this server renders with "
            f"{shown(args)}: serve it by itself, or decide for all (--template, template_args)"
        )


def local_renderer(model: Path | str, args: Mapping[str, Any]) -> Renderer | None:
    """What renders as the server does, in this process; None where no tokenizer is here."""
    if template_text(Path(model)) is None:
        return None
    from lamer_graph.policies.loading import renderer_of  # loads transformers

    return renderer_of(model, args)
