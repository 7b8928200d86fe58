"""What a linear layer multiplies with: its weight, or its weight and a LoRA adapter's added up.

What must stay true: a product with `weight_of` a layer is what the layer computes in eval mode, up to rounding; what is
neither a plain layer nor a plain LoRA one (DoRA, biases, adapters switched off) is said not to be known. The adapter is
added for sampling alone: the module that is trained stays as it is.
"""

from __future__ import annotations

from typing import Any

import torch


def bare(model: Any) -> Any:
    """The transformers model inside of PEFT's, or `model` itself."""
    if not type(model).__module__.startswith("peft."):
        return model
    return model.get_base_model()


def is_known(layer: Any) -> bool:
    """Whether `weight_of` says what the layer multiplies with."""
    return type(layer) is torch.nn.Linear or _is_plain_lora(layer)


def weight_of(layer: Any) -> torch.Tensor:
    """The weight (out, in): the layer's own tensor where there is no adapter."""
    if type(layer) is torch.nn.Linear:
        return layer.weight
    weight: torch.Tensor = layer.base_layer.weight
    for adapter in layer.active_adapters:
        weight = weight + layer.get_delta_weight(adapter)
    return weight


def _is_plain_lora(layer: Any) -> bool:
    if (type(layer).__module__, type(layer).__name__) != ("peft.tuners.lora.layer", "Linear"):
        return False
    adapters = layer.active_adapters
    plain = all(adapter in layer.lora_A and adapter not in layer.lora_variant for adapter in adapters)
    return (
        plain
        and type(layer.base_layer) is torch.nn.Linear
        and not (layer.merged or layer.disable_adapters or any(layer.lora_bias.get(name) for name in adapters))
    )
