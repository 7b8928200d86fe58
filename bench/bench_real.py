"""A pretrained model (SmolLM2, standard prompts, MineSweeper 4x4-3): what a training sample costs, and memory.

Forests (`share_prefixes`) beside padded rows in the same run, one thread, in CPU seconds: an update of some 600 calls
of random play in groups of eight trials, and for rows, whose cost a sample does not fall with their number, the first
trials of the same. All weights are trained, in float32.
"""

from __future__ import annotations

import resource
import tempfile
import time
from pathlib import Path
from typing import Any

from bench import row
from bench.real_play import ENV, TRIALS, calls_of, model_folder, skipped, tokens_of, trials

CALLS, ROW_TRIALS = 600, 2
BUDGET = 2048
"""Tokens of a pass."""


class _Update:
    """A source of one trial, to warm up and to be checked against the sampler, and then of the update to measure."""

    def __init__(self, played: list[Any]) -> None:
        self._played, self.begun = played, 0.0

    def next_batch(self, step: int) -> list[Any]:
        self.begun = time.process_time()
        return self._played if step else self._played[:1]


def _train(model: Any, tokenizer: Any, played: list[Any], folder: Path, *, shared: bool) -> float:
    """CPU seconds of an update, all of it but loading."""
    from transformers import PrinterCallback

    from lamer_trainers.learning.config import LamerConfig
    from lamer_trainers.learning.trainer import LamerTrainer

    args = LamerConfig(
        output_dir=str(folder),
        use_cpu=True,
        disable_tqdm=True,
        updates=2,
        learning_rate=0.0,
        old_logprobs="logged",
        max_logprob_gap=None,
        micro_batch_tokens=BUDGET,
        share_prefixes=shared,
    )
    source = _Update(played)
    trainer = LamerTrainer(model, source, args, processing_class=tokenizer)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return time.process_time() - source.begun


def rows() -> list[dict[str, Any]]:
    folder = model_folder()
    if folder is None:
        return skipped()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    played = trials(folder, CALLS)
    few = played[:ROW_TRIALS]
    calls, alone = calls_of(played), calls_of(few)
    with tempfile.TemporaryDirectory() as place:
        seconds = _train(model, tokenizer, played, Path(place), shared=True)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        row_seconds = _train(model, tokenizer, few, Path(place), shared=False)
    rate, row_rate = len(calls) / seconds, len(alone) / row_seconds
    whole, distinct = tokens_of(calls)
    note = (
        f"{folder.name}, {ENV}, standard prompts, groups of {TRIALS}, {len(calls)} calls of {whole / len(calls):.0f} "
        f"tokens, {distinct / len(calls):.0f} of them distinct (rows: the first {len(alone)} calls)"
    )

    return [
        row("SmolLM2 training, forests / rows, samples a CPU second", rate / row_rate, "x", ">= 3", note),
        row("SmolLM2 training, the same by tokens alone", whole / distinct, "x", "", note),
        row("SmolLM2 training, forests", rate, "samples/CPU s", "", note),
        row("SmolLM2 training, rows", row_rate, "samples/CPU s", "", note),
        row("SmolLM2 training, peak memory of an update", peak, "GiB", "<= 8", note),
    ]
