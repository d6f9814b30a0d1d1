"""Top-k with a stated rule for ties: the lower index wins. Torch's own topk leaves ties open."""

from __future__ import annotations

import torch
from torch import Tensor


def top_mask(scores: Tensor, counts: int | Tensor) -> Tensor:
    """bool [..., N]: the `counts` largest of each row [..., N] (an int, or a tensor of the leading shape).

    Ties go to the lower index. Counts beyond N take everything. NaN ranks above every number, as in torch.
    """
    order = torch.sort(scores, dim=-1, descending=True, stable=True).indices
    rank = torch.arange(scores.shape[-1], device=scores.device)
    limit = counts[..., None] if isinstance(counts, Tensor) else min(counts, len(rank))
    mask = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
    return mask.scatter_(-1, order, (rank < limit).expand(scores.shape))


def ascending_ids(mask: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Ids of the True entries of [..., N], ascending, as int32 [..., width], and their counts int32 [...].

    Entries behind the count are zero. `width` must hold the longest row.
    """
    place = torch.where(mask, mask.cumsum(-1) - 1, width).clamp_(max=width)
    ids = torch.zeros((*mask.shape[:-1], width + 1), dtype=torch.int32, device=mask.device)
    every = torch.arange(mask.shape[-1], dtype=torch.int32, device=mask.device).expand(mask.shape)
    return ids.scatter_(-1, place, every)[..., :width], mask.sum(-1).to(torch.int32)
