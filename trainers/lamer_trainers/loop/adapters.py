"""The adapter that a run trains: PEFT's LoRA as the run file says.

What must stay true: a name in `lora.modules` is that of a linear layer which the model has; else it would train less
than it says, without an error.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from rapidfuzz import process
from transformers import AutoConfig, AutoModelForCausalLM

from lamer_graph.policies.fingerprint import check_adapter
from lamer_graph.policies.shipped import is_adapter
from lamer_trainers.errors import TrainingConfigError
from lamer_trainers.sections import Lora


def with_adapter(model: Any, lora: Lora, begun: Path | None = None) -> Any:
    """`model` with a fresh adapter, or the one in the folder `begun` to go on with, which alone is trained."""
    if begun is not None:
        return PeftModel.from_pretrained(model, begun, is_trainable=True)
    settings = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        use_rslora=lora.rslora,
        target_modules="all-linear" if lora.modules is None else list(lora.modules),
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, settings)


def check_begun(policy: Path, base: Path, lora: Lora | None) -> None:
    """Raises TrainingConfigError, or ConfigError, for an adapter that cannot be gone on with as `lora` says."""
    if not is_adapter(policy):
        return
    check_adapter(policy, base)
    if lora is None:
        return
    config = json.loads((policy / "adapter_config.json").read_text())
    asked = {"r": lora.rank, "lora_alpha": lora.alpha, "lora_dropout": lora.dropout, "use_rslora": lora.rslora}
    names = {"r": "rank", "lora_alpha": "alpha", "lora_dropout": "dropout", "use_rslora": "rslora"}
    for key, value in asked.items():
        there = config.get(key) or type(value)()
        if there != value:
            name = names[key]
            raise TrainingConfigError(
                f"the adapter {policy} has {name} {there}, and lora.{name} is {value}: set lora.{name}="
                f"{json.dumps(there)} to go on with it"
            )
    if lora.modules is not None and {*lora.modules} != {*config.get("target_modules", ())}:
        raise TrainingConfigError(
            f"the adapter {policy} changes {', '.join(sorted(config['target_modules']))}, and lora.modules says other "
            "layers: leave lora.modules out to go on with it"
        )


def check_modules(folder: Path, lora: Lora) -> None:
    """Raises TrainingConfigError for names that are of no linear layer below the head of the folder's model."""
    if lora.modules is None:
        return
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))  # type: ignore[no-untyped-call]
    head = model.get_output_embeddings()
    linear = [name for name, layer in model.named_modules() if isinstance(layer, torch.nn.Linear) and layer is not head]
    for name in lora.modules:
        if any(layer == name or layer.endswith(f".{name}") for layer in linear):
            continue
        kinds = sorted({layer.rpartition(".")[2] for layer in linear})
        near = process.extractOne(name, kinds, score_cutoff=50)
        hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(kinds)}"
        raise TrainingConfigError(f"lora.modules: {folder} has no linear layer '{name}' below its head; {hint}")
