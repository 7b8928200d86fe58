"""Who sampled a run: a note in its `run.json`, beside the configuration.

What must stay true: a run goes on with the policy that played it, or its numbers would be another's. The note says what
really played, and only what is known of it (`Policy.identity`); logs of before it have none, and go on with any.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from lamer_graph.errors import RunLogError
from lamer_graph.policies.base import Policy
from lamer_graph.policies.identity import called, contradiction
from lamer_graph.runlog import RUN_FILE, TRIALS_FILE, write_atomic

SAMPLED_BY = "sampled_by"


def sampled_by(folder: str | Path) -> list[dict[str, Any]]:
    """`Policy.identity` of everyone who is known to have played the run in `folder`; older logs name none."""
    noted: list[dict[str, Any]] = orjson.loads((Path(folder) / RUN_FILE).read_bytes()).get(SAMPLED_BY, [])
    return noted


def check_sampler(folder: Path, policy: Policy) -> bool:
    """False where the run in `folder` does not say who played its trials. Raises RunLogError if it was another."""
    try:
        noted, played = sampled_by(folder), (folder / TRIALS_FILE).stat().st_size > 0
    except (OSError, ValueError, AttributeError):  # no run yet, or a damaged one, which opening it says better
        return True
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


def note_sampler(folder: Path, policy: Policy) -> None:
    """Add what plays to `run.json`. Raises RunLogError."""
    here, noted, path = policy.identity(), sampled_by(folder), folder / RUN_FILE
    if here is None or here in noted:
        return
    about = {**orjson.loads(path.read_bytes()), SAMPLED_BY: [*noted, here]}
    try:
        write_atomic(path, orjson.dumps(about, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    except OSError as error:
        raise RunLogError(f"cannot write {path} ({error.strerror})") from error
