"""What this machine makes of the whole loop, in one table: run it first on a new GPU.

    python examples/gpu_check.py                                # under 8 minutes on one card of the H200's class
    python examples/gpu_check.py --small                        # its CPU form: tiny shapes, the same path, a minute

1. A model of Qwen3-4B's shape with random weights (bfloat16) plays: calls a second of LocalPolicy.
2. One LoRA update of it, with gradient checkpointing: seconds and peak memory, beside what `--dry-run` says. Random
   weights never answer anything valid, so every turn is used and every answer as long as it may be: that is the upper
   end of what `--dry-run` says.
3. SmolLM2's loop (`make smollm2` first, or --model DIR) for as many updates as fit into the time that is left.

Everything goes through `lamer-graph train`'s own code, in a folder that is removed afterwards. Without CUDA it takes
the small form, and says so. Exit code 1 where a row could not be measured.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from lamer_graph.errors import LamerError
from lamer_graph.policies.shipped import is_policy, shipped_policies
from lamer_trainers.loop.curves import read_metrics
from lamer_trainers.loop.plan import Plan, plan
from lamer_trainers.loop.run_folder import METRICS
from lamer_trainers.loop.train import train
from lamer_trainers.runfile import load_run

GIB = 2**30
QWEN3_4B = {
    "vocab_size": 151_936,
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "tie_word_embeddings": True,
}
TINY = {**QWEN3_4B, "vocab_size": 512, "hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2}
TINY |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
CONTEXT = 4096
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LARGE_UPDATE = (
    "collect.env=minesweeper:6x6-3",
    "collect.prompt_style=standard",
    "collect.tasks=2",
    "collect.trials=8",
    "collect.max_episodes=2",
    "collect.max_turns=4",
    "collect.max_tokens=64",
    "optimise.mini_batches=1",
    "optimise.micro_batch_tokens=8192",
    "optimise.gradient_checkpointing=true",
    "optimise.old_logprobs=recomputed",
    "optimise.updates=2",
    "optimise.warmup_updates=0",
    "lora.rank=32",
    "validation=null",
)
"""The first of the two updates also warms the device up; the second is measured."""
SMOL_UPDATE = (
    "collect.env=minesweeper:4x4-3",
    "collect.prompt_style=standard",
    "collect.tasks=4",
    "collect.trials=8",
    "collect.max_turns=6",
    "collect.max_tokens=32",
    "optimise.mini_batches=1",
    "optimise.old_logprobs=recomputed",
    "optimise.warmup_updates=0",
    "lora.rank=32",
    "validation=null",
)
FEWER = ("collect.tasks=1", "collect.trials=2", "collect.max_turns=2", "collect.max_tokens=8")
"""Changes to either for the small form."""


class Row(NamedTuple):
    """A line of the table; `says` is what `--dry-run` says."""

    what: str
    measured: str
    says: str = ""


class TimeIsUpError(Exception):
    """The last section has had its time."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="tiny shapes, on the CPU")
    parser.add_argument("--model", type=Path, default=Path("models/smollm2-135m"), help="SmolLM2's folder")
    parser.add_argument("--minutes", type=float, default=7.0, help="for all of it")
    parser.add_argument("--json", action="store_true", help="print the rows as one JSON document")
    given = parser.parse_args()
    until = time.monotonic() + 60 * given.minutes
    small = given.small or not torch.cuda.is_available()
    console = Console(stderr=True)
    if small and not given.small:
        console.print("no CUDA device here: this is the small form, on the CPU; its numbers say that it runs, no more")
    rows, failed = [Row("device", _device())], False
    with tempfile.TemporaryDirectory(prefix="lamer-gpu-check-") as scratch:
        for section in (_large, _smol):
            try:
                rows += section(Path(scratch), given.model, small, until)
            except (LamerError, torch.OutOfMemoryError) as error:
                failed = True
                rows.append(Row(section.__name__.strip("_"), f"FAILED: {' '.join(str(error).split())[:200]}"))
    if given.json:
        print(json.dumps([row._asdict() for row in rows]))
    else:
        Console(width=140).print(_table(rows))
    return int(failed)


def _device() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, {torch.cuda.mem_get_info()[1] / GIB:.0f} GiB"
    return f"{torch.get_num_threads()} threads of the CPU"


def _table(rows: list[Row]) -> Table:
    table = Table("", "measured", "lamer-graph train --dry-run")
    for row in rows:
        table.add_row(*row)
    return table


# -- a model of Qwen3-4B's shape --------------------------------------------------------------------------------------


def _large(scratch: Path, _: Path, small: bool, until: float) -> list[Row]:
    folder = make_model(scratch / "random", TINY if small else QWEN3_4B)
    changes = [f"policy={folder}", "server=null", "template=null", *LARGE_UPDATE, *(FEWER if small else ())]
    run = load_run(preset="minesweeper-qwen3-4b", changes=changes)
    says = plan(run)
    _forget_peak()
    train(run, scratch / "large")
    last = read_metrics(scratch / "large" / METRICS)[-1]
    what = "tiny shape" if small else "Qwen3-4B's shape"
    return [
        Row(f"{what}: LocalPolicy", f"{last['collect/calls_per_s']:.1f} calls/s", _rate(says)),
        *_update_rows(f"{what}: LoRA update", [last], says),
        Row(f"{what}: peak memory", _peak(), f"{says.peak_gib:.1f} GiB ({says.placement})"),
    ]


def make_model(folder: Path, shape: dict[str, Any]) -> Path:
    """A Qwen3 of that shape with random weights in bfloat16, and a tokenizer of bytes with as many tokens."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokenizer = make_tokenizer(shape["vocab_size"])
    tokenizer.save_pretrained(folder)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    config = Qwen3Config(**shape, **ends, max_position_embeddings=CONTEXT)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = Qwen3ForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    return folder


def make_tokenizer(size: int) -> Any:
    """Every byte is a token; the rest of `size` are words that no text has."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*special, *letters, *(f"<unused {number}>" for number in range(size - len(special) - len(letters)))]
    tokenizer = Tokenizer(models.BPE(vocab={word: number for number, word in enumerate(words)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(special))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.chat_template = TEMPLATE
    return fast


# -- SmolLM2 ----------------------------------------------------------------------------------------------------------


def _smol(scratch: Path, model: Path, small: bool, until: float) -> list[Row]:
    if small:
        folder, name = shipped_policies()["minesweeper-warmstart"], "a shipped policy"
    elif is_policy(model):
        folder, name = model, model.name
    else:
        return [Row("SmolLM2's loop", f"left out: there is no model at {model}; `make smollm2` makes it")]
    changes = [f"policy={folder}", "lora.alpha=64", *SMOL_UPDATE, *(FEWER if small else ())]
    run = load_run(preset="minesweeper-cpu", changes=[*changes, f"optimise.updates={2 if small else 500}"])
    says = plan(run)
    _forget_peak()
    seen: list[dict[str, Any]] = []

    def note(line: dict[str, Any]) -> None:
        seen.append(line)
        if time.monotonic() + line["time/update"] > until:
            raise TimeIsUpError

    with contextlib.suppress(TimeIsUpError):
        train(run, scratch / "smol", progress=note)
    rows = _update_rows(f"{name}: loop, mean of {len(seen)} updates", seen[1:] or seen, says)
    return [*rows, Row(f"{name}: peak memory", _peak(), f"{says.peak_gib:.1f} GiB ({says.placement})")]


def _update_rows(what: str, lines: list[dict[str, Any]], says: Plan) -> list[Row]:
    def mean(key: str) -> float:
        return sum(float(line[key]) for line in lines) / len(lines)

    collect = f"{says.collect_seconds[0]:.1f} to {says.collect_seconds[1]:.1f} s"
    training = f"{says.train_seconds[0]:.1f} to {says.train_seconds[1]:.1f} s"
    return [
        Row(f"{what}, calls", f"{mean('batch/calls'):,.0f}", f"{says.calls[0]:,} to {says.calls[1]:,}"),
        Row(f"{what}, collecting", f"{mean('time/collect'):.1f} s", collect),
        Row(f"{what}, training", f"{mean('time/train'):.1f} s", training),
    ]


def _rate(says: Plan) -> str:
    slow, fast = says.calls[1] / says.collect_seconds[1], says.calls[0] / says.collect_seconds[0]
    return f"{min(slow, fast):.1f} to {max(slow, fast):.1f} calls/s"


def _forget_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _peak() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.max_memory_allocated() / GIB:.1f} GiB"
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB, of the whole process so far"


if __name__ == "__main__":
    sys.exit(main())
