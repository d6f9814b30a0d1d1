"""Gated SparseK attention with linear memory, differentiable in q, k, v and the scores.

Only scores, thresholds and end rows are stored, never a mask: p_ij = clip(u_j − τ_i, 0, 1) is
recomputed. The score gradient splits into a kept part, summed while the keys are at hand, and the
mean that the operator's Jacobian subtracts from all fractional keys, seen or not. τ never falls, so
a key is fractional for one run of rows and prefix sums give the latter in O(n log n).
"""

from __future__ import annotations

from enum import StrEnum
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparsekernels.sparsek import blocks
from sparsekernels.sparsek.definition import Gating
from sparsekernels.sparsek.pattern import Budget, Candidates, CausalPattern, candidates, causal_pattern, with_sinks


class Impl(StrEnum):
    """Which code computes the attention; chosen by the caller, never silently."""

    TORCH = "torch"
    """Blocks of rows over gathered keys, any device; the reference of the kernels."""
    TRITON = "triton"


class Prepared(NamedTuple):
    """A pattern made ready for blocks of rows. Scores have +inf at the sinks."""

    scores: Tensor
    pattern: CausalPattern
    lists: Candidates
    budget: Budget
    gating: Gating
    scale: float


def sparsek_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scores: Tensor,
    budget: Budget,
    gating: Gating,
    *,
    impl: Impl = Impl.TORCH,
    scale: float | None = None,
    row_block: int = 128,
) -> Tensor:
    """Causal attention over window, sinks and the kept keys.

    Args:
        q: [heads, n, d]; k, v: [kv_heads, n, d]; heads of one group share a kept set.
        scores: [kv_heads, n], float32 or float64 (bfloat16 is too coarse and refused).
        row_block: query rows that share a gather; a power of two for Triton.

    Returns:
        [heads, n, d] in q's dtype. A batch is folded into the heads dimension.
    """
    if scores.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"scores are {scores.dtype}; the operator needs float32 or float64")
    prepared = prepare(scores, budget, gating, scale or q.shape[-1] ** -0.5, row_block, impl)
    out: Tensor = _Attention.apply(q, k, v, scores, prepared, impl)  # type: ignore[no-untyped-call]
    return out


def prepare(scores: Tensor, budget: Budget, gating: Gating, scale: float, row_block: int, impl: Impl) -> Prepared:
    """Thresholds, end rows and key lists of `scores` [kv_heads, n]."""
    pattern = pattern_of(scores.detach(), budget, impl)
    lists = candidates(pattern, budget.window, row_block)
    return Prepared(with_sinks(scores.detach(), budget.sinks), pattern, lists, budget, gating, scale)


def pattern_of(scores: Tensor, budget: Budget, impl: Impl) -> CausalPattern:
    """Thresholds and end rows of `scores` [kv_heads, n]."""
    if impl is Impl.TRITON:
        from sparsekernels.sparsek.triton_pattern import causal_pattern_triton

        return causal_pattern_triton(scores, budget)
    return causal_pattern(scores, budget, chunk=None if scores.device.type == "cpu" else 256)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scores: Tensor, prepared: Prepared, impl: Impl) -> Tensor:
        out: Tensor
        out, lse = _backend(impl).forward(q, k, v, prepared)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.prepared, ctx.impl = prepared, impl
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        needs_scores = bool(ctx.needs_input_grad[3])
        found = _backend(ctx.impl).backward(q, k, v, out, lse, grads[0].contiguous(), ctx.prepared)
        d_scores = score_gradient(found, ctx.prepared) if needs_scores else None
        return found.dq, found.dk, found.dv, d_scores, None, None


def _backend(impl: Impl) -> ModuleType:
    if impl is Impl.TRITON:
        from sparsekernels.sparsek import triton_attention

        return triton_attention
    return blocks


def score_gradient(found: blocks.Gradients, prepared: Prepared) -> Tensor:
    """Gradient of the scores [kv_heads, n] from the kept part and the rows' means."""
    scores, n = prepared.scores.to(found.kept.dtype), prepared.scores.shape[-1]
    tau = prepared.pattern.thresholds.to(scores.dtype).contiguous()
    # Key j is fractional from the first row with τ > u_j − 1 to the last with τ < u_j, once it competes.
    begin = torch.searchsorted(tau, (scores - 1).contiguous(), right=True)
    end = torch.searchsorted(tau, scores.contiguous())
    begin = torch.maximum(begin, torch.arange(n, device=begin.device) + prepared.budget.window).clamp(max=n)
    end = torch.maximum(begin, end)
    # Counted from the same runs, so that a row's mean is over just the keys that it is taken from.
    one = torch.ones_like(scores)
    change = torch.zeros(len(scores), n + 1, dtype=scores.dtype, device=scores.device)
    count = change.scatter_add_(1, begin, one).scatter_add_(1, end, -one).cumsum(-1)[:, :n]
    running = torch.nn.functional.pad((found.rows / count.clamp(min=1)).cumsum(-1), (1, 0))
    tail: Tensor = running.gather(-1, end) - running.gather(-1, begin)
    return found.kept - tail
