"""As how many processes this one was launched, and joining the others.

What must stay true: whoever is the first to need them joins as all do: with CUDA's own transport where there is CUDA,
and with patience for a main process that plays for hours.
"""

from __future__ import annotations

import os
from datetime import timedelta

from lamer_trainers.errors import TrainingConfigError

PATIENCE = timedelta(days=7)
"""How long the others wait for the main process, which plays meanwhile."""
SPREADING = ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_MEGATRON_LM")


def launched() -> int:
    """As how many processes this one was launched. Raises TrainingConfigError if they could not train."""
    said = os.environ.get("WORLD_SIZE", "1")
    if not said.isdigit() or int(said) < 1:
        raise TrainingConfigError(f"WORLD_SIZE={said} is no number of processes: start it with `accelerate launch`")
    if int(said) > 1:
        if spread := [name for name in SPREADING if os.environ.get(name, "").lower() == "true"]:
            raise TrainingConfigError(
                f"{spread[0]} spreads the weights over processes, and a policy is sampled from whole ones: launch with "
                "--multi_gpu, and train an adapter (lora.rank=32) if all weights do not fit"
            )
        if missing := [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
            raise TrainingConfigError(f"WORLD_SIZE={said} without {missing[0]}: start it with `accelerate launch`")
    return int(said)


def is_main() -> bool:
    """Whether this is the process that speaks, or the only one."""
    return launched() == 1 or os.environ["RANK"] == "0"


def join() -> str | None:
    """Meet the others of this launch, once, and say where this one trains; None where it is alone."""
    if launched() == 1:
        return None
    import torch
    from accelerate import PartialState

    cpu = not torch.cuda.is_available() or os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true"
    if torch.distributed.is_initialized():
        return str(PartialState(cpu=cpu).device)
    return str(PartialState(cpu=cpu, timeout=PATIENCE).device)
