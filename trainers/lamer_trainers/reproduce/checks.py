"""What can be known to be wrong with a grid before its first run."""

from __future__ import annotations

from pathlib import Path

from lamer_graph.errors import ConfigError
from lamer_graph.policies.shipped import is_adapter, is_policy
from lamer_trainers.errors import TrainingConfigError
from lamer_trainers.reproduce.jobs import Grid


def missing_policies(grid: Grid) -> dict[str, str]:
    """The policies that runs begin with and that are not here, and how each is made."""
    begun = {job.run.policy for job in grid.chosen if not job.done}
    absent = [policy for policy in sorted(begun) if not is_policy(Path(policy)) and not is_adapter(Path(policy))]
    return {policy: grid.makes.get(policy, "lamer-graph warmup") for policy in absent}


def check_jobs(grid: Grid) -> None:
    """Raises ConfigError where nothing is to be run at this scale, TrainingConfigError for a policy that is not there,
    and what `loop.train.check` raises."""
    if not grid.chosen:
        why = "; ".join(f"{one.what}: {one.why}" for one in grid.left_out)
        raise ConfigError(f"{', '.join(grid.targets)} has nothing to run at scale {grid.wanted.scale} ({why})")
    for policy, how in missing_policies(grid).items():
        raise TrainingConfigError(f"the policy '{policy}', which runs begin with, is not here; make it: {how}")
    from lamer_trainers.loop.train import check  # and with it torch, which no refusal above waits for

    for job in grid.chosen:
        if job.kind == "train" and not job.done:
            check(job.run, job.folder, resume=(job.folder / "run.json").exists())
