"""The contract between whoever plays and whoever trains: a run is a folder, a finished trial one line of its log.

What must stay true: an acknowledged trial is on disk whole, with the exact tokens that were sampled. `lines` reads,
`log` writes, `schema` checks, `export` makes tables; `recording` turns a trial's last state into its line.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lamer_graph.runlog.files import replacing, write_atomic
from lamer_graph.runlog.lines import (
    RUN_FILE,
    SCHEMA_VERSION,
    TRIALS_FILE,
    config_hash,
    open_trials,
    read_config,
    read_trials,
    scan,
    trial_of,
    well_formed,
)
from lamer_graph.runlog.log import RunLog

if TYPE_CHECKING:
    from lamer_graph.runlog.schema import CheckReport

__all__ = [
    "RUN_FILE",
    "SCHEMA_VERSION",
    "TRIALS_FILE",
    "RunLog",
    "check",
    "config_hash",
    "export_parquet",
    "open_trials",
    "read_config",
    "read_trials",
    "replacing",
    "scan",
    "trial_of",
    "well_formed",
    "write_atomic",
]


def check(folder: str | Path) -> CheckReport:
    """Validate every line of a run's log; see `schema.check`."""
    from lamer_graph.runlog.schema import check as check_log  # pydantic models, only where they are needed

    return check_log(folder)


def export_parquet(folder: str | Path, out: str | Path) -> int:
    """One Parquet row per policy call of a run; see `export.export_parquet`."""
    from lamer_graph.runlog.export import export_parquet as export  # needs the extra `train`

    return export(folder, out)
