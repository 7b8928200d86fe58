"""A warm start's folder while it is made, and what is handed out in it at the end.

What must stay true: what was asked for is noted before the first step, so that a fit which was cut short is gone on
with by the same request alone; the folder gets weights last, when all that is said of them lies beside them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from lamer_graph.errors import ConfigError
from lamer_graph.policies.shipped import CARD
from lamer_graph.runlog import write_atomic
from lamer_trainers.warmstart.model_card import model_card
from lamer_trainers.warmstart.report import REPORT_FILE

WORK = "fit"
"""In the folder while it is made: checkpoints, and what the fit was asked to do."""
REQUEST, MADE = "request.json", "made"
Json = dict[str, Any]


def check_folder(out: Path, *, resume: bool) -> None:
    """Raises ConfigError for a folder that holds something else than a fit to go on with."""
    there = out.exists() and (not out.is_dir() or any(out.iterdir()))
    begun = (out / WORK / REQUEST).is_file()
    if there and not resume:
        raise ConfigError(
            f"{out} exists and is not an empty folder; choose another"
            + (", or go on with the fit in it by --resume" if begun else "")
        )
    if there and not begun:
        raise ConfigError(f"{out} holds no fit to go on with: leave --resume out and choose another folder")


def noted(out: Path, wanted: Mapping[str, Any]) -> Json | None:
    """What was planned when the fit in `out` was begun, None if it was not. Raises ConfigError if it was another's."""
    path = out / WORK / REQUEST
    if not path.is_file():
        return None
    try:
        there: Json = json.loads(path.read_bytes())
        request, plan = there["request"], dict(there["plan"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"cannot read {path} ({error}): choose another folder") from None
    other = next((key for key, value in wanted.items() if request.get(key) != value), None)
    if other is not None:
        raise ConfigError(
            f"the fit in {out} was begun with another {other} ({request.get(other)} there, {wanted[other]} here): "
            "repeat its options, or choose another folder"
        )
    return plan


def note(out: Path, request: Mapping[str, Any], plan: Json) -> Json:
    """Write down what is asked for and what is planned for it; the plan."""
    (out / WORK).mkdir(parents=True, exist_ok=True)
    write_atomic(out / WORK / REQUEST, orjson.dumps({"request": request, "plan": plan}))
    return plan


def hand_out(out: Path, card: Mapping[str, Any], said: Json) -> None:
    """Put what lies in the working folder's `made` up, with its card and report; the working folder goes.

    It is copied, so that `made` stays whole until all of it is there: one cut short here is gone on with like any.
    """
    made = out / WORK / MADE
    for name, content in ((CARD, card), (REPORT_FILE, said)):
        (made / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    (made / "README.md").write_text(model_card(said))
    for path in sorted(made.iterdir(), key=lambda one: one.suffix == ".safetensors"):
        copied = Path(shutil.copyfile(path, out / WORK / "copied"))
        copied.chmod(0o644)
        copied.replace(out / path.name)
    (out / WORK / REQUEST).unlink()  # first: without it nobody goes on with what is half gone
    shutil.rmtree(out / WORK)
