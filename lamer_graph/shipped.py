"""Where the policies that ship with the project lie.

What must stay true: a folder counts as a policy only if transformers could load it (`config.json`, a tokenizer and
weights), and a name is looked up among the folders found, never used as a path.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

FOLDER = Path("examples") / "policies"


def is_policy(folder: Path) -> bool:
    """True if `folder` holds a model in Hugging Face format together with its tokenizer."""
    return (
        (folder / "config.json").is_file()
        and (folder / "tokenizer.json").is_file()
        and any((folder / name).is_file() for name in ("model.safetensors", "model.safetensors.index.json"))
    )


def shipped_policies() -> dict[str, Path]:
    """Policies by folder name: those of the checkout this package runs from, else those under the current folder."""
    for root in (Path(__file__).resolve().parent.parent, Path.cwd()):
        folder = root / FOLDER
        if folder.is_dir():
            return {path.name: path for path in sorted(folder.iterdir()) if path.is_dir() and is_policy(path)}
    return {}


def shipped_policy(env_spec: str) -> Path | None:
    """The shipped policy for an environment, None if there is none.

    Folders are named after what they play: `minesweeper-4x4-3` plays `minesweeper:4x4-3`. The longest matching name
    wins: an exact specification before the environment alone.
    """
    wanted = env_spec.replace(":", "-")
    policies = shipped_policies()
    if wanted in policies:
        return policies[wanted]
    return policies.get(env_spec.split(":")[0])


def taught_style(folder: Path) -> Literal["standard", "compact"]:
    """The prompt style that a policy was taught in, as its `lamer.json` says; standard where it says nothing."""
    try:
        style = json.loads((folder / "lamer.json").read_text()).get("prompt_style")
    except (OSError, ValueError, AttributeError):
        return "standard"
    return "compact" if style == "compact" else "standard"
