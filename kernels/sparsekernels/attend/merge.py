"""Attention over several disjoint selections, from the attention over each and its log-sum-exp."""

from __future__ import annotations

import torch

from sparsekernels.attend.reference import Attended


def merge(parts: list[Attended]) -> Attended:
    """Outputs [T, Hq, D] and log-sum-exps [T, Hq] (natural logarithm) of disjoint key sets to those of their union.

    Weighs in float32 (float64 stays). A part that reads nothing has −inf and counts for nothing, whatever its output
    holds; a row that no part reads is zero.
    """
    norms = torch.stack([p.lse for p in parts])
    outs = torch.stack([p.out for p in parts]).to(norms.dtype)
    total = norms.logsumexp(0)
    weights = (norms - total.masked_fill(total.isinf(), 0)).exp()[..., None]
    merged = (outs.masked_fill(weights == 0, 0) * weights).sum(0)
    return Attended(merged.to(parts[0].out.dtype), total)
