"""FlexPrefill with τ = 0: vertical-slash whose sizes come from a coverage threshold, per query head (arXiv 2502.20766).

With p the mean of the estimated attention's columns (it sums to 1), sorted falling: the number of columns is
max(min_budget, 1 + #{t : p₁ + … + p_t ≤ alpha}); the number of diagonals likewise from the diagonal sums divided by the
rows. Then sinks and local offsets are forced inside these sizes and vertical-slash's steps 2 and 3 follow. This is the
reference implementation's meaning: the paper's query-aware branch is off, and sizes are tokens, not blocks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparsekernels.methods.estimate import column_sums, diagonal_sums, window_probabilities
from sparsekernels.methods.vertical_slash import Coverage, force_first, selection_of
from sparsekernels.parameters import FlexPrefill
from sparsekernels.ranking import top_mask
from sparsekernels.selection import Selection


def coverage_counts(shares: Tensor, alpha: float, min_budget: int) -> Tensor:
    """int64 [H]: how many of the largest shares [H, N] are kept; sums to 1 over N for a full distribution."""
    if alpha == 0:
        covered = (shares.amax(-1, keepdim=True) <= 0).sum(-1)
    elif alpha == 1:  # everything, however the sum was rounded
        covered = torch.full(shares.shape[:-1], shares.shape[-1], device=shares.device)
    else:
        covered = (shares.sort(dim=-1, descending=True).values.cumsum(-1) <= alpha).sum(-1)
    return (covered + 1).clamp(min=min_budget, max=max(min_budget, shares.shape[-1]))


def select(
    q: Tensor,
    k: Tensor,
    parameters: FlexPrefill,
    *,
    scale: float | None = None,
    row_block: int = 64,
    coverage: Coverage = Coverage.UNION,
) -> Selection:
    """Single-token lists (page_size 1) per query head for q [T, Hq, D], the last T rows over k [L, Hkv, D]."""
    probabilities = window_probabilities(q, k, parameters.window, scale)
    num_rows = probabilities.shape[1]
    columns, diagonals = column_sums(probabilities), diagonal_sums(probabilities)
    num_columns = coverage_counts(columns / num_rows, parameters.alpha, parameters.min_budget)
    num_offsets = coverage_counts(diagonals / num_rows, parameters.alpha, parameters.min_budget)
    return selection_of(
        top_mask(force_first(columns, parameters.sink_size), num_columns),
        top_mask(force_first(diagonals, parameters.local_size), num_offsets),
        q.shape[0],
        row_block=row_block,
        coverage=coverage,
    )
