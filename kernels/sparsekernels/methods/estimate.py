"""Attention of the last query rows, from which columns, diagonals and votes are summed. Reference; float32 (or 64).

The fused form, which never holds the probabilities, is `sparsekernels.index.estimate`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def window_probabilities(q: Tensor, k: Tensor, window: int, scale: float | None = None) -> Tensor:
    """softmax(q·kᵀ·scale) of the last min(window, T) rows under the causal mask, [Hq, w, L].

    q [T, Hq, D] are the last T positions of the sequence whose keys are k [L, Hkv, D]. Scale defaults to D^-½.
    Float64 inputs stay so; anything narrower is computed in float32.
    """
    window = min(window, q.shape[0])
    length, group = k.shape[0], q.shape[1] // k.shape[1]
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    rows = q[q.shape[0] - window :].to(dtype).transpose(0, 1)
    columns = k.to(dtype).transpose(0, 1).repeat_interleave(group, 0)
    scores = rows @ columns.transpose(1, 2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    position = torch.arange(length - window, length, device=q.device)
    hidden = torch.arange(length, device=q.device) > position[:, None]
    return scores.masked_fill(hidden, float("-inf")).softmax(-1)


def column_sums(probabilities: Tensor) -> Tensor:
    """Sum over the rows of [H, w, L]: [H, L], by key position."""
    return probabilities.sum(1)


def diagonal_sums(probabilities: Tensor) -> Tensor:
    """Sum along each diagonal of [H, w, L]: [H, L], by offset = query position − key position."""
    heads, window, length = probabilities.shape
    key = torch.arange(length, device=probabilities.device)
    offset = torch.arange(length - window, length, device=probabilities.device)[:, None] - key
    sums = torch.zeros(heads, length, dtype=probabilities.dtype, device=probabilities.device)
    target = offset.clamp(min=0).flatten()
    weights = probabilities.masked_fill(offset < 0, 0).flatten(1)
    return sums.index_add_(1, target, weights)
