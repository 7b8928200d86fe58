"""Qwen3's and Llama's forward pass for sampling on the CPU, faster than the general one by a third and more.

What must stay true: logits equal those of transformers' own classes up to rounding (a test compares them). Weights are
those of the module when the pass was made; who changes them makes another one. What is different:
- Only the last token of a prompt goes on once the last layer's keys and values are known; nobody reads the others.
- Keys and values are not repeated for the heads that share them.
- Queries and keys come from one product, with head dimensions reordered so that rotary embedding (Su et al., 2021) is
  one multiplication of complex numbers. The order does not matter to a dot product, and cached keys have it too.
- Elementwise work is done in place; attention over short rows is two batched products around a softmax.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from lamer_graph.policies.effective import bare, is_known, weight_of

Cached = Callable[[int, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""(layer, new keys, new values), each (rows, heads, new columns, head_dim) -> all keys and values to attend to."""

FAMILIES = ("llama", "qwen3")
FUSED = 2**15
"""Scores of a head above which torch's fused attention is faster than two products around a softmax."""


MERGED_BELOW = 500_000_000
"""Parameters of a model whose adapter may be added to a copy of its weights, which takes as much memory again."""


def supports(model: Any, *, adapted: bool = False) -> bool:
    """Whether `Dense` computes exactly this model: plain Qwen3 or Llama in float32 on the CPU, with a LoRA adapter only
    where it may be `adapted`."""
    if bare(model) is not model:
        if not adapted or sum(parameter.numel() for parameter in model.parameters()) > MERGED_BELOW:
            return False
        model = bare(model)
    config = model.config
    family = config.model_type
    if family not in FAMILIES or type(model).__module__ != f"transformers.models.{family}.modeling_{family}":
        return False
    plain = config.hidden_act == "silu" and not config.attention_bias and not getattr(config, "mlp_bias", False)
    rope = model.model.rotary_emb
    linear = [module for name, module in model.named_modules() if name.endswith(("_proj", "lm_head"))]
    dense = all(map(is_known, linear)) and (adapted or all(type(module) is torch.nn.Linear for module in linear))
    first = next(model.parameters())
    on_cpu = first.device.type == "cpu" and first.dtype == torch.float32
    hooked = any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    turns = rope.rope_type in ("default", "llama3") and rope.attention_scaling == 1.0
    return plain and turns and dense and on_cpu and not hooked


def _rms(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """x / rms(x) * weight over the last dimension (Zhang and Sennrich, 2019)."""
    scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    scaled: torch.Tensor = x * scale
    return scaled.mul_(weight)


class _Layer(NamedTuple):
    """The weights of a layer: `turned` is that of queries and keys, `scales` that of their norms."""

    before_attention: torch.Tensor
    turned: torch.Tensor
    scales: torch.Tensor | None
    values: torch.Tensor
    out: torch.Tensor
    before_mlp: torch.Tensor
    gate: torch.Tensor
    up: torch.Tensor
    down: torch.Tensor


class Dense:
    """The forward pass over a module's weights, as they are now."""

    def __init__(self, model: Any) -> None:
        self._model = model = bare(model)
        config = model.config
        self._heads: int = config.num_attention_heads
        self._groups: int = config.num_key_value_heads
        self._dim: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self._eps: float = config.rms_norm_eps
        half = self._dim // 2
        self._pairs = torch.arange(self._dim).view(2, half).T.reshape(-1)
        self._layers: list[_Layer] = []

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
        if not self._layers:
            self._layers = [self._lay_out(layer) for layer in body.layers]
        for number, layer in enumerate(self._layers):
            query, keys, values = self._project(_rms(hidden, layer.before_attention, self._eps), layer, turn)
            shape = rows, length, self._groups, self._dim
            keys, values = cached(number, keys.view(shape).transpose(1, 2), values.view(shape).transpose(1, 2))
            query = query.view(rows, length, self._heads, self._dim)
            if number == final and length > 1:
                query, hidden = query[:, -1:], hidden.view(rows, length, -1)[:, -1].contiguous()
                bias = None if bias is None else bias[:, :, -1:]
            hidden += functional.linear(self._attend(query, keys, values, bias), layer.out)
            normed = _rms(hidden, layer.before_mlp, self._eps)
            gate = functional.silu(functional.linear(normed, layer.gate), inplace=True)
            gate *= functional.linear(normed, layer.up)
            hidden += functional.linear(gate, layer.down)
        return functional.linear(_rms(hidden, body.norm.weight, self._eps), self._head)

    @functools.cached_property
    def _head(self) -> torch.Tensor:
        return weight_of(self._model.lm_head)

    def _lay_out(self, layer: Any) -> _Layer:
        """A layer's weights, with one for queries and keys in the order of rotation."""
        dim, heads, groups, attention = self._dim, self._heads, self._groups, layer.self_attn
        turned = torch.cat([weight_of(attention.q_proj), weight_of(attention.k_proj)]).view(heads + groups, dim, -1)
        scales: torch.Tensor | None = None
        if hasattr(attention, "q_norm"):
            norms = attention.q_norm.weight[self._pairs], attention.k_norm.weight[self._pairs]
            scales = torch.cat([norms[0].expand(heads, dim), norms[1].expand(groups, dim)])
        return _Layer(
            layer.input_layernorm.weight,
            turned.index_select(1, self._pairs).flatten(0, 1),
            scales,
            weight_of(attention.v_proj),
            weight_of(attention.o_proj),
            layer.post_attention_layernorm.weight,
            weight_of(layer.mlp.gate_proj),
            weight_of(layer.mlp.up_proj),
            weight_of(layer.mlp.down_proj),
        )

    def _project(
        self, x: torch.Tensor, layer: _Layer, turn: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Rotated queries (tokens, heads, dim) and keys (tokens, groups, dim), and values."""
        dim, heads, groups = self._dim, self._heads, self._groups
        both = functional.linear(x, layer.turned).view(-1, heads + groups, dim)
        if layer.scales is not None:
            both = _rms(both, layer.scales, self._eps)
        turned = torch.view_as_complex(both.view(-1, heads + groups, dim // 2, 2)).mul_(turn)
        both = torch.view_as_real(turned).view(-1, heads + groups, dim)
        return both[:, :heads], both[:, heads:], functional.linear(x, layer.values)

    def _attend(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        """softmax(q k / sqrt(dim) + bias) v: query (n, T, heads, dim), keys (n, groups, columns, dim) -> (n T, ..)."""
        rows, length, heads, dim = query.shape
        groups, columns = keys.shape[1:3]
        share = heads // groups
        # The heads that share a key head are further queries to it.
        if length * columns > FUSED:
            stacked = query.transpose(1, 2).reshape(rows, groups, share * length, dim)
            mask = None if bias is None else bias.unsqueeze(2).expand(-1, -1, share, -1, -1).flatten(2, 3)
            mixed = functional.scaled_dot_product_attention(stacked, keys, values, attn_mask=mask)
            return mixed.reshape(rows, heads, length, dim).transpose(1, 2).reshape(rows * length, heads * dim)
        stacked = (query * dim**-0.5).transpose(1, 2).reshape(rows * groups, share * length, dim)
        scores = torch.bmm(stacked, keys.reshape(rows * groups, columns, dim).transpose(1, 2))
        if bias is not None:
            scores.view(rows, heads, length, columns).add_(bias)
        mixed = torch.bmm(scores.softmax(-1), values.reshape(rows * groups, columns, dim))
        return mixed.view(rows, heads, length, dim).transpose(1, 2).reshape(rows * length, heads * dim)
