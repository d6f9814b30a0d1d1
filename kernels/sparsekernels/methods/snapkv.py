"""SnapKV and Ada-SnapKV: which prompt tokens stay in the cache, per KV head, fixed once after the prefill.

Both let the last `window` queries vote, smooth the votes with an average over `kernel_size` neighbours (zeros beyond
the ends count), force the first sink_size and the last local_size tokens, and keep the best; forced ones count, ties go
to the lower position.
- SnapKV (arXiv 2404.14469, as in The Sparse Frontier): votes are averaged over the group's query heads and summed over
  the window; token_capacity tokens a KV head.
- Ada-SnapKV (arXiv 2407.11550): votes are the maximum over window and group. Every head keeps
  max(⌊min_ratio · token_capacity⌋, sink_size + local_size) of its own best; the rest of token_capacity × heads goes
  to the best remaining (head, token) pairs. With pool_heads = "layer" the heads are those of all tensor-parallel ranks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsekernels.methods.estimate import window_probabilities
from sparsekernels.parameters import AdaSnapKV, SnapKV
from sparsekernels.ranking import ascending_ids, top_mask

Gather = Callable[[Tensor], tuple[Tensor, int]]
"""Local votes [Hkv, L] to the votes of all ranks [heads, L], and the first local head's index in them."""


@dataclass(frozen=True, slots=True)
class KeptTokens:
    """Prompt tokens that each KV head keeps."""

    tokens: Tensor
    """int32 [Hkv, W], ascending positions, padded behind `counts` with valid positions."""
    counts: Tensor
    """int32 [Hkv]."""
    prompt_length: int


def votes(q: Tensor, k: Tensor, parameters: SnapKV | AdaSnapKV, scale: float | None = None) -> Tensor:
    """Smoothed votes [Hkv, L], float32, for the last rows q [T, Hq, D] (T ≥ window, or all rows) over k [L, Hkv, D]."""
    probabilities = window_probabilities(q, k, parameters.window, scale)
    grouped = probabilities.view(k.shape[1], -1, *probabilities.shape[1:])
    adaptive = isinstance(parameters, AdaSnapKV)
    raw = grouped.amax((1, 2)) if adaptive else grouped.mean(1).sum(1)
    return smooth(raw, parameters.kernel_size)


def smooth(raw: Tensor, kernel_size: int) -> Tensor:
    """Average over kernel_size neighbours of [H, L], zeros beyond the ends counted."""
    pad = kernel_size // 2
    return torch.nn.functional.avg_pool1d(raw[:, None], kernel_size, stride=1, padding=pad)[:, 0]


def keep(smoothed: Tensor, parameters: SnapKV | AdaSnapKV, gather: Gather | None = None) -> KeptTokens:
    """Kept tokens from smoothed votes [Hkv, L] of this rank.

    `gather` is called only by Ada-SnapKV with pool_heads = "layer"; None means that this rank holds all heads.
    """
    if isinstance(parameters, SnapKV):
        mask = top_mask(_forced(smoothed, parameters), parameters.token_capacity)
        width = min(parameters.token_capacity, smoothed.shape[1])
        return KeptTokens(*ascending_ids(mask, width), smoothed.shape[1])
    pooled, first = smoothed, 0
    if gather is not None and parameters.pool_heads == "layer":
        pooled, first = gather(smoothed)
    mask = adaptive_mask(_forced(pooled, parameters), parameters)[first : first + smoothed.shape[0]]
    return KeptTokens(*ascending_ids(mask, most_kept(parameters, *pooled.shape)), smoothed.shape[1])


def most_kept(parameters: AdaSnapKV, heads: int, length: int) -> int:
    """A bound on what one of `heads` heads keeps: all that its neighbours' floors leave. Known without the device."""
    floor = floor_of(parameters, length)
    return min(length, parameters.token_capacity * heads - floor * (heads - 1))


def adaptive_mask(scores: Tensor, parameters: AdaSnapKV) -> Tensor:
    """bool [heads, L]: own best of each head, then the best of the rest over all heads, exactly on budget."""
    heads, length = scores.shape
    floor = floor_of(parameters, length)
    own = top_mask(scores, floor)
    rest = max(0, min(parameters.token_capacity, length) * heads - floor * heads)
    others = scores.masked_fill(own, -float("inf")).flatten()
    return own | (top_mask(others, rest).view(heads, length) & ~own)


def floor_of(parameters: AdaSnapKV, length: int) -> int:
    """Tokens that every head keeps of its own."""
    floor = max(int(parameters.min_ratio * parameters.token_capacity), parameters.sink_size + parameters.local_size)
    return min(floor, length)


def _forced(scores: Tensor, parameters: SnapKV | AdaSnapKV) -> Tensor:
    token = torch.arange(scores.shape[-1], device=scores.device)
    forced = (token < parameters.sink_size) | (token >= scores.shape[-1] - parameters.local_size)
    return scores.masked_fill(forced, float("inf"))
