"""Quest over a compressed cache: pages are cut from what each KV head kept, followed by what was generated.

So the current page is the last page of that compacted sequence, and its lists name single cache slots.
"""

from __future__ import annotations

import torch
from sparsekernels.ranking import top_mask
from torch import Tensor


def quest_slots(
    q: Tensor,
    keys: Tensor,
    slots: Tensor,
    counts: Tensor,
    budgets: Tensor,
    *,
    page_size: int,
    max_budget: int,
    share_pages: bool,
) -> tuple[Tensor, Tensor]:
    """Cache slots that Quest reads, int32 [B, H, W], and how many, int32 [B, H].

    q [B, Hq, D]; keys [pages, page, Hkv, D]; slots int64 [B, Hkv, N] in compacted order, padded behind counts [B, Hkv];
    budgets int32 [B], tokens. H is Hkv when pages are shared by a group's heads, else Hq.
    """
    pad = -slots.shape[2] % page_size
    slots = torch.nn.functional.pad(slots, (0, pad))
    entry = torch.arange(slots.shape[2], device=slots.device)
    valid = entry < counts[..., None]
    bounds = _page_bounds(q, _gather(keys, slots), valid, page_size)
    if share_pages:
        bounds = bounds.sum(2)
    else:
        group = bounds.shape[2]
        bounds, slots, counts = (
            bounds.flatten(1, 2),
            slots.repeat_interleave(group, 1),
            counts.repeat_interleave(group, 1),
        )
    page = torch.arange(bounds.shape[2], device=slots.device)
    current = ((counts - 1) // page_size)[..., None]
    before = page < current
    best = top_mask(
        bounds.masked_fill(~before, -float("inf")), (budgets.long() // page_size)[:, None].expand(counts.shape)
    )
    read = ((best & before) | (page == current)).repeat_interleave(page_size, 2) & (entry < counts[..., None])
    width = min(max_budget + page_size, slots.shape[2])
    order = torch.sort((~read).to(torch.uint8), dim=-1, stable=True).indices[..., :width]
    return slots.gather(2, order).to(torch.int32), read.sum(-1).to(torch.int32)


def _gather(keys: Tensor, slots: Tensor) -> Tensor:
    """Keys [B, Hkv, N, D] at cache slots [B, Hkv, N]."""
    page = keys.shape[1]
    head = torch.arange(keys.shape[2], device=keys.device)[None, :, None]
    return keys[slots // page, slots % page, head]


def _page_bounds(q: Tensor, keys: Tensor, valid: Tensor, page_size: int) -> Tensor:
    """Upper bounds of q·k [B, Hkv, group, pages] for q [B, Hq, D] over pages of keys [B, Hkv, N, D]."""
    pages = keys.float().view(*keys.shape[:2], -1, page_size, keys.shape[3])
    inside = valid.view(*valid.shape[:2], -1, page_size, 1)
    high = pages.masked_fill(~inside, -float("inf")).amax(3).masked_fill(~inside.any(3), 0)
    low = pages.masked_fill(~inside, float("inf")).amin(3).masked_fill(~inside.any(3), 0)
    grouped = q.view(q.shape[0], keys.shape[1], -1, q.shape[2]).float()
    return torch.einsum("bhgd,bhpd->bhgp", grouped.clamp(min=0), high) + torch.einsum(
        "bhgd,bhpd->bhgp", grouped.clamp(max=0), low
    )
