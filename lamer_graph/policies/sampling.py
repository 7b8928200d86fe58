"""Drawing tokens from logits, row by row.

What must stay true: what a row draws depends on its own logits, its own seed and the position of the token, never on
the batch it is in. The draw is inverse-transform sampling: the first token whose cumulative probability exceeds a
uniform u, and u is a counter-based hash of (seed, position) (splitmix64: Steele, Lea and Flood, OOPSLA 2014), so no
generator state is shared or carried. The logprob returned is that of the distribution drawn from: after temperature,
then top_k, then top_p, the order and the tie rules of vLLM's `processed_logprobs`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

GREEDY_BELOW = 1e-5
"""Temperatures under this take the most likely token; its logprob is then given at temperature 1, as vLLM does."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_M1 = np.uint64(0xBF58476D1CE4E5B9)
_M2 = np.uint64(0x94D049BB133111EB)


def _mix(z: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """splitmix64's finaliser; arithmetic is modulo 2^64."""
    z = (z ^ (z >> np.uint64(30))) * _M1
    z = (z ^ (z >> np.uint64(27))) * _M2
    return z ^ (z >> np.uint64(31))


def uniforms(seeds: Sequence[int], positions: Sequence[int]) -> npt.NDArray[np.float64]:
    """One number in [0, 1) per row from its seed (any integer, taken modulo 2^64) and token position."""
    keys = np.array([seed & 0xFFFFFFFFFFFFFFFF for seed in seeds], dtype=np.uint64)
    counters = np.array(positions, dtype=np.uint64)
    bits = _mix(_mix(keys + _GOLDEN) + (counters + np.uint64(1)) * _GOLDEN)
    # 48 bits: u times a float64 total then stays below the total, so the draw never runs off the end.
    return (bits >> np.uint64(16)).astype(np.float64) * 2.0**-48


def truncate(logits: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Set to -inf what top_k (0: off) and then top_p leave out. logits (n, V); top_k, top_p (n,); result (n, V)."""
    vocab = logits.shape[-1]
    ordered, order = logits.sort(dim=-1)
    keep = torch.where(top_k <= 0, vocab, top_k.clamp(max=vocab))
    threshold = ordered.gather(-1, (vocab - keep).unsqueeze(-1))
    ordered = ordered.masked_fill(ordered < threshold, -torch.inf)
    below = ordered.softmax(-1).cumsum(-1) <= 1 - top_p.unsqueeze(-1)
    below[:, -1] = False
    ordered = ordered.masked_fill(below, -torch.inf)
    return torch.empty_like(logits).scatter_(-1, order, ordered)


def draw(
    logits: torch.Tensor,
    *,
    temperatures: Sequence[float],
    top_ks: Sequence[int],
    top_ps: Sequence[float],
    seeds: Sequence[int],
    positions: Sequence[int],
) -> tuple[torch.Tensor, torch.Tensor]:
    """One token per row: ids (n,) int64 and logprobs (n,) float32 of the sampling distribution. logits (n, V)."""
    logits = logits.float()
    device = logits.device
    greedy = [temperature < GREEDY_BELOW for temperature in temperatures]
    if any(temperature != 1.0 for temperature in temperatures):
        scale = [1.0 if flat else temperature for flat, temperature in zip(greedy, temperatures, strict=True)]
        logits = logits / torch.tensor(scale, dtype=torch.float32, device=device).unsqueeze(-1)
    if any(top_k > 0 for top_k in top_ks) or any(top_p < 1.0 for top_p in top_ps):
        # A greedy row takes the top token whatever is cut away, and reports it of the whole distribution.
        ks = [0 if flat else top_k for flat, top_k in zip(greedy, top_ks, strict=True)]
        ps = [1.0 if flat else top_p for flat, top_p in zip(greedy, top_ps, strict=True)]
        logits = truncate(logits, torch.tensor(ks, device=device), torch.tensor(ps, device=device))
    logprobs = logits.log_softmax(-1)
    cdf = logprobs.exp().cumsum(-1, dtype=torch.float64)
    u = torch.from_numpy(uniforms(seeds, positions)).to(device).unsqueeze(-1)
    tokens = torch.searchsorted(cdf, u * cdf[:, -1:], right=True).squeeze(-1).clamp_(max=logits.shape[-1] - 1)
    if any(greedy):
        tokens = torch.where(torch.tensor(greedy, device=device), logits.argmax(-1), tokens)
    return tokens, logprobs.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def token_logprobs(logits: torch.Tensor, token_ids: torch.Tensor, temperature: float) -> torch.Tensor:
    """Logprobs (T,) of `token_ids` (T,) under softmax(logits / temperature), logits (T, V)."""
    scale = 1.0 if temperature < GREEDY_BELOW else temperature
    logprobs = (logits.float() / scale).log_softmax(-1)
    return logprobs.gather(-1, token_ids.unsqueeze(-1)).squeeze(-1)
