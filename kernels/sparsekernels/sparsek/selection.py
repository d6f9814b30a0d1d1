"""SparseK for inference in the form that every method speaks: a Selection of single tokens.

Selection is stateless here: the kept set of a row is the top of the scores of its prefix, so end rows
for a whole prompt, or the slots of one step, follow from the scores alone. A row block larger than 1
freezes the kept set at the block's first row and lets the window grow to window + row_block − 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparsekernels.selection import Selection, rows_of_sequence
from sparsekernels.sparsek.pattern import Budget, CausalPattern, causal_pattern


def select_prefill(
    scores: Tensor, budget: Budget, num_queries: int, *, row_block: int = 1, pattern: CausalPattern | None = None
) -> Selection:
    """Lists of the last `num_queries` rows. `scores` float32 [kv_heads, n]; heads of a group share a list.

    Args:
        row_block: rows that share a list; 1 is exact.
        pattern: end rows of the same scores and budget, if the caller has them.
    """
    n = scores.shape[1]
    ends = (pattern or causal_pattern(scores, budget)).ends
    rows = rows_of_sequence(num_queries, n, row_block, device=scores.device)
    keys = torch.arange(n, device=scores.device)
    # The kept set of a block is that of its aligned first row, also where the block itself starts later.
    anchor = (rows.position // row_block * row_block)[:, None]
    near = (keys > anchor - budget.window) & (keys < rows.end[:, None])
    older = (keys <= anchor - budget.window)[:, None] & (ends[None] > anchor[:, None])
    mask = near[:, None] | older
    counts = mask.sum(-1, dtype=torch.int32)
    width = int(counts.max()) if counts.numel() else 0
    order = mask.to(torch.uint8).sort(dim=-1, descending=True, stable=True).indices[..., :width]
    return Selection(rows, 1, row_block, order.to(torch.int32).contiguous(), counts)


def select_decode(scores: Tensor, budget: Budget, length: int) -> tuple[Tensor, Tensor]:
    """Tokens that the query at position length − 1 reads: int64 [kv_heads, slots] ascending, and how many are real.

    `scores` [kv_heads, ≥ length]. At most budget.slots tokens, whatever the length.
    """
    last = length - 1
    positions = torch.arange(length, device=scores.device)
    near = positions > last - budget.window
    compete = (positions >= budget.sinks) & ~near
    ranked = scores[:, :length].masked_fill(~compete, -torch.inf)
    kept = torch.zeros_like(ranked, dtype=torch.bool)
    if budget.kept:
        # Of equal scores the newer stays, as in the end rows.
        best = ranked.flip(-1).sort(dim=-1, descending=True, stable=True).indices[:, : budget.kept]
        kept = kept.scatter(-1, length - 1 - best, True) & compete
    mask = kept | near | (positions < budget.sinks)
    counts = mask.sum(-1)
    order = mask.to(torch.uint8).sort(dim=-1, descending=True, stable=True).indices
    return order[:, : min(length, budget.slots)], counts
