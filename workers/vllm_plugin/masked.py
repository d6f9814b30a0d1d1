"""Sparse prefill on a CPU: dense products under a mask, some hundred rows at a time.

The same pairs as the reference executor, which gathers keys row block by row block and is slow without a GPU.
"""

from __future__ import annotations

import torch
from sparsekernels.choosing import Place
from sparsekernels.prefill import PrefillMethod, PrefillResult, allowed_pairs, select
from sparsekernels.selection import Selection
from torch import Tensor

ROWS_AT_ONCE = 256


def masked_prefill(
    q: Tensor, k: Tensor, v: Tensor, method: PrefillMethod, scale: float, out: Tensor, place: Place | None = None
) -> PrefillResult:
    """Attention of q [T, Hq, D], the last T rows over k and v [L, Hkv, D], into `out` [T, Hq, D]."""
    return masked_attend(q, k, v, select(q, k, method, scale=scale, place=place), scale, out)


def masked_attend(q: Tensor, k: Tensor, v: Tensor, selection: Selection, scale: float, out: Tensor) -> PrefillResult:
    """The same for a selection made elsewhere."""
    heads = torch.arange(q.shape[1]) // (q.shape[1] // k.shape[1])
    keys, values = k.transpose(0, 1)[heads], v.transpose(0, 1)[heads]
    blocks = max(1, ROWS_AT_ONCE // selection.row_block)
    for first in range(0, len(selection.rows.count), blocks):
        part = slice(first, first + blocks)
        start, limit = int(selection.rows.query_start[part][0]), int(selection.rows.end[part][-1])
        mask = _mask(selection, part, limit)
        mask = mask.repeat_interleave(q.shape[1] // mask.shape[0], 0)
        rows = q[start : start + mask.shape[1]].transpose(0, 1)
        scores = (rows.float() @ keys[:, :limit].transpose(1, 2).float()) * scale
        weights = scores.masked_fill_(~mask, -float("inf")).softmax(-1)
        out[start : start + mask.shape[1]] = (weights @ values[:, :limit].float()).transpose(0, 1).to(out.dtype)
    return PrefillResult(out, selection.computed_pairs(), allowed_pairs(q.shape[0], k.shape[0]))


def _mask(selection: Selection, part: slice, limit: int) -> Tensor:
    """bool [Hq, rows, limit] of some row blocks: in the list, and not after the row."""
    rows, size = selection.rows, selection.page_size
    pages, counts = selection.pages[part].long(), selection.counts[part]
    num_pages = -(-limit // size)
    listed = torch.arange(pages.shape[-1]) < counts[..., None]
    chosen = torch.zeros(*counts.shape, num_pages + 1, dtype=torch.bool)
    chosen.scatter_(2, torch.where(listed, pages, num_pages), True)
    columns = chosen[..., :num_pages].repeat_interleave(size, -1)[..., :limit]
    count = rows.count[part]
    position = torch.repeat_interleave(rows.position[part], count) + _within(count)
    block = torch.repeat_interleave(torch.arange(len(count)), count)
    return columns.transpose(0, 1)[:, block] & (torch.arange(limit) <= position[:, None])


def _within(count: Tensor) -> Tensor:
    """0 … n − 1 for each n of `count`, one after the other."""
    return torch.arange(int(count.sum())) - torch.repeat_interleave(count.cumsum(0) - count, count)
