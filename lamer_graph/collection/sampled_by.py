"""Who sampled a run: a note in its `run.json`, beside the configuration.

What must stay true: the note says what really played, and only what is known of it; logs of before it have none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from lamer_graph.errors import RunLogError
from lamer_graph.policies.base import Policy
from lamer_graph.policies.fingerprint import sampler_fingerprint
from lamer_graph.runlog import RUN_FILE, write_atomic

SAMPLED_BY = "sampled_by"


def sampled_by(folder: str | Path) -> list[dict[str, Any]]:
    """`sampler_fingerprint` of each model that is known to have played the run in `folder`; older logs name none."""
    noted: list[dict[str, Any]] = orjson.loads((Path(folder) / RUN_FILE).read_bytes()).get(SAMPLED_BY, [])
    return noted


def note_sampler(folder: Path, policy: Policy) -> None:
    """Add what plays to `run.json`. Raises RunLogError."""
    sampler, noted, path = sampler_fingerprint(policy), sampled_by(folder), folder / RUN_FILE
    if sampler is None or sampler in noted:
        return
    about = {**orjson.loads(path.read_bytes()), SAMPLED_BY: [*noted, sampler]}
    try:
        write_atomic(path, orjson.dumps(about, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    except OSError as error:
        raise RunLogError(f"cannot write {path} ({error.strerror})") from error
