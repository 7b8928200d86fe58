"""Adapter swaps into a running vLLM: seconds to save, load and prove one, alone and with requests in flight.

The requests under way hold the version that they began with, as trials do in training; not one may fail for a swap.
"""

from __future__ import annotations

import asyncio
import tempfile
import threading
from pathlib import Path
from statistics import median
from typing import Any

from bench import row
from bench.game_calls import ENV, policy_folder

SWAPS = 12
CLIENTS = 16
RANK = 32
CALLS = 4
"""Calls of a client under one version."""


def _model() -> Any:
    from peft import LoraConfig, get_peft_model

    from lamer_graph.policies.local import LocalPolicy

    settings = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(LocalPolicy(policy_folder()).model, settings)


def _update(model: Any) -> None:
    """A change of every adapter weight, as an optimiser step makes it."""
    import torch

    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_" in name:
                value += torch.randn_like(value) * 3e-3


class _Traffic:
    """Clients that play on in a thread; counts what was answered, by version, and what failed."""

    def __init__(self, sync: Any) -> None:
        self.answered: dict[str, int] = {}
        self.failed = 0
        self._sync = sync
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> _Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    async def _run(self) -> None:
        await asyncio.gather(*(self._client(number) for number in range(CLIENTS)))

    async def _client(self, number: int) -> None:
        from lamer_graph.errors import PolicyError
        from lamer_graph.types import Sampling

        while not self._stop.is_set():
            with self._sync.using() as policy:
                for call in range(CALLS):
                    question = f"Episode 1  Open (1, {number % 4 + 1})=1  Act"
                    try:
                        done = await policy.generate(
                            [{"role": "user", "content": question}], Sampling(max_tokens=24, seed=call)
                        )
                    except PolicyError:
                        self.failed += 1
                    else:
                        self.answered[done.policy_version] = self.answered.get(done.policy_version, 0) + 1
                await policy.aclose()


def _swaps(sync: Any, model: Any, first: int) -> list[Any]:
    made = []
    for update in range(first, first + SWAPS):
        _update(model)
        made.append(sync.push(update))
    return made


def rows() -> list[dict[str, Any]]:
    from lamer_graph.serving.vllm import VllmServer, vllm_flavour
    from lamer_trainers.sources.sync import AdapterSync

    if vllm_flavour() is None:
        return []
    import torch

    torch.set_num_threads(1)  # what serves a model of this size best, beside a server on the same cores
    model = _model()
    with (
        tempfile.TemporaryDirectory() as folder,
        VllmServer(policy_folder(), max_adapters=4, max_lora_rank=RANK) as server,
    ):
        sync = AdapterSync(server, model, Path(folder), keep=2)
        sync.push(0)  # the first answer of a server compiles and warms up
        quiet = _swaps(sync, model, 1)
        with _Traffic(sync) as traffic:
            busy = _swaps(sync, model, 1 + SWAPS)
    note = f"{ENV}, 0.7 M parameters, rank {RANK}, {SWAPS} swaps"
    loaded = f"{note}, {CLIENTS} clients, {sum(traffic.answered.values())} answers of {len(traffic.answered)} versions"
    return [
        row("adapter swap, median", median(swap.seconds for swap in quiet), "s", "<= 0.25", note),
        row("adapter swap under load, failed requests", traffic.failed, "", "<= 0", loaded),
        *(
            row(f"adapter swap, {part}", median(getattr(swap, part) for swap in quiet), "s")
            for part in ("save", "load", "verify")
        ),
        row("adapter swap under load, median", median(swap.seconds for swap in busy), "s"),
        *(
            row(f"adapter swap under load, {part}", median(getattr(swap, part) for swap in busy), "s")
            for part in ("save", "load", "verify")
        ),
        row("adapter swap, largest probe difference", max(swap.error for swap in quiet + busy), "nats"),
    ]
