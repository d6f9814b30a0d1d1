"""Gated SparseK attention written out with n × n matrices: the definition that every fast form is tested against.

Differentiable by torch's own autograd through the operator. Memory is quadratic: MAX_LENGTH caps it.
"""

from __future__ import annotations

from enum import StrEnum

import torch
from torch import Tensor

from sparsekernels.sparsek.operator import sparsek
from sparsekernels.sparsek.pattern import Budget, window_mask

MAX_LENGTH = 8192


class Gating(StrEnum):
    """What the gates of the kept keys multiply."""

    KEYS_AND_VALUES = "keys_and_values"
    """Logits and values, as in the paper's notation."""
    VALUES = "values"
    """Values only."""
    STRAIGHT_THROUGH = "straight_through"
    """Nothing in the forward; the backward is that of keys_and_values with gate 1."""


def attention_definition(
    q: Tensor, k: Tensor, v: Tensor, scores: Tensor, budget: Budget, gating: Gating, *, scale: float | None = None
) -> Tensor:
    """Attention of one sequence.

    Args:
        q: [heads, n, d]; k, v: [kv_heads, n, d]; scores: [kv_heads, n].

    Returns:
        [heads, n, d].
    """
    n = q.shape[1]
    if n > MAX_LENGTH:
        raise ValueError(f"{n} positions; the definition is quadratic and takes at most {MAX_LENGTH}")
    group = q.shape[0] // k.shape[0]
    gates, kept = gates_and_kept(scores, budget)
    if gating is Gating.STRAIGHT_THROUGH:
        gates = gates + (1.0 - gates).detach()
    near = window_mask(n, budget.window, torch.arange(n, device=q.device)) | _sink_mask(n, budget, q.device)
    used = torch.where(near, torch.ones_like(gates), gates).repeat_interleave(group, 0)
    seen = (near | kept).repeat_interleave(group, 0)
    content = q @ k.repeat_interleave(group, 0).mT * (scale or q.shape[-1] ** -0.5)
    logits = content if gating is Gating.VALUES else content * used
    weights = logits.masked_fill(~seen, -torch.inf).softmax(-1)
    return (weights * used) @ v.repeat_interleave(group, 0)


def gates_and_kept(scores: Tensor, budget: Budget) -> tuple[Tensor, Tensor]:
    """Gates and the kept set of every row, [kv_heads, n, n], by brute force over the competing prefix of each row."""
    n = scores.shape[-1]
    rows = torch.arange(n, device=scores.device)
    compete = (rows[:, None] - rows >= budget.window) & (rows >= budget.sinks)
    wide = scores[:, None].expand(-1, n, -1)
    if budget.kept == 0:
        return torch.zeros_like(wide), torch.zeros_like(wide, dtype=torch.bool)
    gates = sparsek(wide, budget.kept, visible=compete)
    newest_first = wide.masked_fill(~compete, -torch.inf).flip(-1)
    order = newest_first.sort(dim=-1, descending=True, stable=True).indices[..., : budget.kept]
    kept = torch.zeros_like(compete).expand(wide.shape).clone().scatter_(-1, n - 1 - order, True) & compete
    return gates, kept


def _sink_mask(n: int, budget: Budget, device: torch.device) -> Tensor:
    rows = torch.arange(n, device=device)
    return (rows[None] < budget.sinks) & (rows[None] <= rows[:, None])
