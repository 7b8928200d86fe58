"""Where the policies that ship with the project lie.

What must stay true: a folder counts as a policy only if transformers could load it (`config.json`, a tokenizer and
weights), and which one plays an environment is read from its `lamer.json`, never guessed from a name.
"""

from __future__ import annotations

import json
import sysconfig
from pathlib import Path
from typing import Any, Literal

from lamer_graph.errors import ConfigError
from lamer_graph.policies.fingerprint import other_base

CHECKOUT = Path(__file__).resolve().parents[2]
FOLDER, INSTALLED = Path("examples") / "policies", Path("share") / "lamer-graph" / "policies"
CARD = "lamer.json"
"""What a policy plays, in which prompt style, with which template arguments, and whether it was trained beyond its warm
start."""
WORDING = ("actions", "texts", "strategy", "thoughts")
"""In the card, where they are not the defaults: how prompts are worded besides their style."""
TEMPLATE = "template"
"""In the card: the chat template's arguments."""


def is_policy(folder: Path) -> bool:
    """True if `folder` holds a model in Hugging Face format together with its tokenizer."""
    return (
        (folder / "config.json").is_file()
        and (folder / "tokenizer.json").is_file()
        and any((folder / name).is_file() for name in ("model.safetensors", "model.safetensors.index.json"))
    )


def is_adapter(folder: Path) -> bool:
    """True if `folder` holds a LoRA adapter in PEFT's format, weights in safetensors."""
    return (folder / "adapter_config.json").is_file() and (folder / "adapter_model.safetensors").is_file()


def base_of(adapter: Path) -> Path:
    """The folder of the model that an adapter changes, as its configuration names it. Raises ConfigError.

    Of several models at that name it is the one that the adapter was trained on, where that was noted.
    """
    try:
        named = json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError):
        named = None
    if not isinstance(named, str):
        raise ConfigError(f"adapter {adapter} does not name the model that it was trained on (adapter_config.json)")
    # A relative path was one of the folder that the run was started in, which the run mostly lies below.
    places = [Path(named), *(above / named for above in adapter.resolve().parents), CHECKOUT / named]
    found = [folder for folder in places if is_policy(folder)]
    if found:
        return next((folder for folder in found if other_base(adapter, folder) is None), found[0])
    below = "" if Path(named).is_absolute() else f", neither from {Path.cwd()} nor from a folder above the adapter"
    raise ConfigError(f"the model that adapter {adapter} was trained on is not at {named!r}{below}; put it there")


def shipped_policies() -> dict[str, Path]:
    """Policies by folder name: those of the checkout this package runs from, else those under the current folder, else
    those that were installed with it."""
    installed = Path(sysconfig.get_path("data")) / INSTALLED
    for folder in (CHECKOUT / FOLDER, Path.cwd() / FOLDER, installed):
        if folder.is_dir():
            return {path.name: path for path in sorted(folder.iterdir()) if path.is_dir() and is_policy(path)}
    return {}


def shipped_policy(env_spec: str) -> Path | None:
    """The shipped warm start that was made for an environment, None if there is none."""
    found = ((path, card(path)) for path in shipped_policies().values())
    return next((path for path, about in found if about.get("env") == env_spec and not about.get("trained")), None)


def taught_style(folder: Path) -> Literal["standard", "compact"]:
    """The prompt style that a policy was taught in; standard where its card does not say."""
    return "compact" if card(folder).get("prompt_style") == "compact" else "standard"


def taught_wording(folder: Path) -> dict[str, Any]:
    """What else a policy's card says of its prompts: `WORDING`, as in `CollectConfig`, where it does."""
    return {key: value for key, value in card(folder).items() if key in WORDING}


def taught_template(*folders: Path) -> dict[str, Any] | None:
    """The chat template's arguments that a policy was played with, by the first card that says; None: none says."""
    for folder in folders:
        found = card(folder).get(TEMPLATE)
        if isinstance(found, dict):
            return found
    return None


def taught_folding(*folders: Path) -> bool | None:
    """False where the policy was taught without the system's words (compact prompts), by the first card that says."""
    styles = (card(folder).get("prompt_style") for folder in folders)
    return False if next((style for style in styles if style is not None), None) == "compact" else None


def taught_env(folder: Path) -> str | None:
    """The specification of the environment that a policy was taught; None where its card does not say."""
    found = card(folder).get("env")
    return found if isinstance(found, str) else None


def card(folder: Path) -> dict[str, Any]:
    """A policy's `lamer.json` (the environment it plays, its prompt style), empty where it has none."""
    try:
        found = json.loads((folder / CARD).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
