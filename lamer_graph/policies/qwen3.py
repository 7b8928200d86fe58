"""Qwen3's forward pass for sampling on the CPU: two thirds of the general one's time at the size of our own policies.

What must stay true: logits equal those of transformers' Qwen3ForCausalLM up to rounding (a test compares them), and the
weights are read from the module in every pass, so an update in place is seen by the next one. What is different:
- Only the last token of a prompt goes on once the last layer's keys and values are known; nobody reads the others.
- Queries and keys come from one product, with head dimensions reordered so that rotary embedding (Su et al., 2021) is
  one multiplication of complex numbers. The order does not matter to a dot product, and cached keys have it too.
- Elementwise work is done in place; attention over short rows is two batched products around a softmax.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

Cached = Callable[[int, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""(layer, new keys, new values), each (rows, heads, new columns, head_dim) -> all keys and values to attend to."""


def supports(model: Any) -> bool:
    """Whether `Qwen3` computes exactly this model: plain dense Qwen3 in float32 on the CPU, without adapters."""
    config = model.config
    if type(model).__module__ != "transformers.models.qwen3.modeling_qwen3" or config.model_type != "qwen3":
        return False
    plain = config.hidden_act == "silu" and not config.attention_bias
    rope = model.model.rotary_emb
    dense = all(type(module) is torch.nn.Linear for name, module in model.named_modules() if name.endswith("_proj"))
    first = next(model.parameters())
    on_cpu = first.device.type == "cpu" and first.dtype == torch.float32
    hooked = any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    return plain and rope.rope_type == "default" and dense and on_cpu and not hooked


def _rms(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """x / rms(x) * weight over the last dimension (Zhang and Sennrich, 2019)."""
    scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    scaled: torch.Tensor = x * scale
    return scaled.mul_(weight)


class Qwen3:
    """The forward pass over a module's weights."""

    def __init__(self, model: Any) -> None:
        self._model = model
        config = model.config
        self._heads: int = config.num_attention_heads
        self._groups: int = config.num_key_value_heads
        self._dim: int = config.head_dim
        self._eps: float = config.rms_norm_eps
        half = self._dim // 2
        self._pairs = torch.arange(self._dim).view(2, half).T.reshape(-1)

    def __call__(
        self, ids: torch.Tensor, positions: torch.Tensor, bias: torch.Tensor | None, cached: Cached
    ) -> torch.Tensor:
        """Logits (n, V) after the last token of each row.

        ids and positions (n, T); bias (n or 1, 1, T, columns) is added to the scores: 0 where a query may look and a
        large negative number where not.
        """
        body = self._model.model
        rows, length = ids.shape
        hidden = functional.embedding(ids, body.embed_tokens.weight).view(rows * length, -1)
        angles = positions.reshape(-1, 1).float() * body.rotary_emb.inv_freq
        turn = torch.polar(torch.ones_like(angles), angles).unsqueeze(1)
        final = len(body.layers) - 1
        for number, layer in enumerate(body.layers):
            attention = layer.self_attn
            query, keys, values = self._project(_rms(hidden, layer.input_layernorm.weight, self._eps), attention, turn)
            shape = rows, length, self._groups, self._dim
            keys, values = cached(number, keys.view(shape).transpose(1, 2), values.view(shape).transpose(1, 2))
            query = query.view(rows, length, self._heads, self._dim)
            if number == final and length > 1:
                query, hidden = query[:, -1:], hidden.view(rows, length, -1)[:, -1].contiguous()
                bias = None if bias is None else bias[:, :, -1:]
            hidden += functional.linear(self._attend(query, keys, values, bias), attention.o_proj.weight)
            normed = _rms(hidden, layer.post_attention_layernorm.weight, self._eps)
            gate = functional.silu(functional.linear(normed, layer.mlp.gate_proj.weight), inplace=True)
            gate *= functional.linear(normed, layer.mlp.up_proj.weight)
            hidden += functional.linear(gate, layer.mlp.down_proj.weight)
        logits: torch.Tensor = functional.linear(_rms(hidden, body.norm.weight, self._eps), self._model.lm_head.weight)
        return logits

    def _project(
        self, x: torch.Tensor, attention: Any, turn: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Rotated queries (tokens, heads, dim) and keys (tokens, groups, dim), and values."""
        dim, heads, groups = self._dim, self._heads, self._groups
        weight = torch.cat([attention.q_proj.weight, attention.k_proj.weight]).view(heads + groups, dim, -1)
        both = functional.linear(x, weight.index_select(1, self._pairs).flatten(0, 1)).view(-1, heads + groups, dim)
        norms = attention.q_norm.weight[self._pairs], attention.k_norm.weight[self._pairs]
        scales = torch.cat([norms[0].expand(heads, dim), norms[1].expand(groups, dim)])
        both = _rms(both, scales, self._eps)
        turned = torch.view_as_complex(both.view(-1, heads + groups, dim // 2, 2)).mul_(turn)
        both = torch.view_as_real(turned).view(-1, heads + groups, dim)
        return both[:, :heads], both[:, heads:], functional.linear(x, attention.v_proj.weight)

    def _attend(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        """softmax(q k / sqrt(dim) + bias) v: query (n, T, heads, dim), keys (n, groups, columns, dim) -> (n T, ..)."""
        rows, length, heads, dim = query.shape
        groups, columns = keys.shape[1:3]
        share = heads // groups
        # The heads that share a key head are further queries to it.
        stacked = (query * dim**-0.5).transpose(1, 2).reshape(rows * groups, share * length, dim)
        scores = torch.bmm(stacked, keys.reshape(rows * groups, columns, dim).transpose(1, 2))
        if bias is not None:
            scores.view(rows, heads, length, columns).add_(bias)
        mixed = torch.bmm(scores.softmax(-1), values.reshape(rows * groups, columns, dim))
        return mixed.view(rows, heads, length, dim).transpose(1, 2).reshape(rows * length, heads * dim)
