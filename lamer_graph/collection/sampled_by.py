"""Who sampled a run, and how its prompts were rendered: notes in its `run.json`, beside the configuration.

What must stay true: a run goes on with the policy that played it, rendering as it did, or its numbers would be
another's. The notes say what really played, and only what is known of it (`Policy.identity`, `Policy.rendering`); logs
of before them have none, and go on with any.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from lamer_graph.errors import RunLogError
from lamer_graph.policies.base import Policy
from lamer_graph.policies.identity import called, contradiction
from lamer_graph.policies.rendering import Rendered, difference, shown
from lamer_graph.runlog import RUN_FILE, TRIALS_FILE, write_atomic

SAMPLED_BY = "sampled_by"
RENDERED = "rendered"


def sampled_by(folder: str | Path) -> list[dict[str, Any]]:
    """`Policy.identity` of everyone who is known to have played the run in `folder`; older logs name none."""
    noted: list[dict[str, Any]] = _about(folder).get(SAMPLED_BY, [])
    return noted


def rendered(folder: str | Path) -> Rendered | None:
    """How the run's prompts were rendered; None where that was not known or not noted yet, or no run can be read."""
    try:
        noted: Rendered | None = _about(folder).get(RENDERED)
    except (OSError, ValueError):
        return None
    return noted


def _about(folder: str | Path) -> dict[str, Any]:
    """The whole of `run.json`. Raises OSError and ValueError."""
    about: dict[str, Any] = orjson.loads((Path(folder) / RUN_FILE).read_bytes())
    return about


def check_sampler(folder: Path, policy: Policy) -> bool:
    """False where the run in `folder` does not say who played its trials.

    Raises RunLogError if it was another, or one that rendered its prompts in another way.
    """
    try:
        noted, before, played = sampled_by(folder), rendered(folder), _played(folder)
    except (OSError, ValueError, AttributeError):  # no run yet, or a damaged one, which opening it says better
        return True
    if played and before is not None and policy.rendering is None and before["template"]:
        raise RunLogError(
            f"the trials in {folder} were rendered with {shown(before['template'])}, and what the policy here renders "
            "with is not known: say the same (--template, template_args), or name another folder"
        )
    if played and before is not None and policy.rendering is not None and before != policy.rendering:
        raise RunLogError(
            f"the trials in {folder} were {difference(before, policy.rendering)}: go on as it was begun, or name "
            "another folder"
        )
    here = policy.identity()
    found = [] if here is None else [contradiction(there, here) for there in noted]
    if here is None or not played or (found and None in found):
        return True
    if not found:
        return False
    raise RunLogError(
        f"{folder} was played by {called(noted[-1])}, and {called(here)} is another policy ({found[-1]}): go on with "
        "the one that played it, or name another folder"
    )


def _played(folder: Path) -> bool:
    return (folder / TRIALS_FILE).stat().st_size > 0


def note_sampler(folder: Path, policy: Policy) -> None:
    """Add what plays to `run.json`. Raises RunLogError."""
    here, noted, path = policy.identity(), sampled_by(folder), folder / RUN_FILE
    news: dict[str, Any] = {}
    if here is not None and here not in noted:
        news[SAMPLED_BY] = [*noted, here]
    if not _played(folder) and policy.rendering not in (None, rendered(folder)):
        news[RENDERED] = policy.rendering
    if not news:
        return
    about = {**_about(folder), **news}
    try:
        write_atomic(path, orjson.dumps(about, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    except OSError as error:
        raise RunLogError(f"cannot write {path} ({error.strerror})") from error
