"""The adapter that a run trains: PEFT's LoRA as the run file says.

What must stay true: a name in `lora.modules` is that of a linear layer which the model has; else it would train less
than it says, without an error.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from rapidfuzz import process
from transformers import AutoConfig, AutoModelForCausalLM

from lamer_trainers.errors import TrainingConfigError
from lamer_trainers.sections import Lora


def with_adapter(model: Any, lora: Lora) -> Any:
    """`model` with a fresh adapter, which alone is trained."""
    settings = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        use_rslora=lora.rslora,
        target_modules="all-linear" if lora.modules is None else list(lora.modules),
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, settings)


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
