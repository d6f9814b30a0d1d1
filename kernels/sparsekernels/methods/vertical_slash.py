"""Vertical-slash: key columns and diagonals found from the last rows, per query head (MInference, arXiv 2407.02490).

Definition, with `window` rows of estimated attention A (see `estimate`):
1. columns: sum A over the rows; the first sink_size keys are forced; the best vertical_size stay;
2. diagonals: sum A along each offset; offsets 0 … local_size − 1 are forced; the best slash_size stay;
3. a row block of `row_block` rows reads, for every kept offset o, the keys [start − o, start + row_block − o), and the
   kept columns; start is a multiple of row_block. Forced entries count against the sizes; ties go to the lower index.

Two rules for step 3 (`Coverage`):
- `UNION` (ours): exactly the keys above. At row_block 64 it is contained in what the reference implementation reads;
  at row_block 128, the fast setting on Hopper, it contains the UNION of row_block 64 and so every asked-for pair.
- `TILES`: the reference implementation's (row_block 64): ranges that touch are merged in steps of row_block, which may
  read up to row_block − 1 further keys beside a range, and a range that begins before key 0 is moved to begin there.
"""

from __future__ import annotations

from enum import StrEnum

import torch
from torch import Tensor

from sparsekernels.methods.estimate import column_sums, diagonal_sums, window_probabilities
from sparsekernels.parameters import VerticalSlash
from sparsekernels.ranking import ascending_ids, top_mask
from sparsekernels.selection import Rows, Selection, rows_of_sequence


class Coverage(StrEnum):
    """How kept diagonals become keys of a row block; see the module's text."""

    UNION = "union"
    TILES = "tiles"


def select(
    q: Tensor,
    k: Tensor,
    parameters: VerticalSlash,
    *,
    scale: float | None = None,
    row_block: int = 64,
    coverage: Coverage = Coverage.UNION,
) -> Selection:
    """Single-token lists (page_size 1) per query head for q [T, Hq, D], the last T rows over k [L, Hkv, D]."""
    probabilities = window_probabilities(q, k, parameters.window, scale)
    columns = top_mask(force_first(column_sums(probabilities), parameters.sink_size), parameters.vertical_size)
    offsets = top_mask(force_first(diagonal_sums(probabilities), parameters.local_size), parameters.slash_size)
    return selection_of(columns, offsets, q.shape[0], row_block=row_block, coverage=coverage)


def force_first(scores: Tensor, count: int) -> Tensor:
    """Scores [..., N] with the first `count` set to infinity."""
    forced = torch.arange(scores.shape[-1], device=scores.device) < count
    return scores.masked_fill(forced, float("inf"))


def selection_of(
    columns: Tensor, offsets: Tensor, num_queries: int, *, row_block: int = 64, coverage: Coverage = Coverage.UNION
) -> Selection:
    """Step 3: kept columns and offsets, bool [Hq, L] each, to single-token lists for the last `num_queries` rows."""
    length = columns.shape[1]
    rows = rows_of_sequence(num_queries, length, row_block, device=columns.device)
    cover = cover_union if coverage is Coverage.UNION else cover_tiles
    mask = cover(offsets, rows, row_block) | columns
    key = torch.arange(length, device=columns.device)
    mask &= key < rows.end[:, None, None]
    pages, counts = ascending_ids(mask, length)
    return Selection(rows, 1, row_block, pages, counts)


def cover_union(offsets: Tensor, rows: Rows, row_block: int) -> Tensor:
    """bool [R, H, L]: keys j with a kept offset in start − j … start − j + row_block − 1."""
    length = offsets.shape[1]
    before = torch.nn.functional.pad(offsets.to(torch.int32).cumsum(1), (1, 0))  # kept offsets below x
    start = rows.position // row_block * row_block
    low = start[:, None] - torch.arange(length, device=offsets.device)
    high = (low + row_block).clamp(0, length)
    return (before[:, high] > before[:, low.clamp(0, length)]).transpose(0, 1)


def cover_tiles(offsets: Tensor, rows: Rows, row_block: int) -> Tensor:
    """bool [R, H, L]: the reference implementation's merging of ranges, tile by tile, longest offset first."""
    heads, length = offsets.shape
    end = (rows.position // row_block * row_block + row_block)[:, None]
    edges = torch.zeros(len(end), heads, length + 2 * row_block + 1, dtype=torch.int32, device=offsets.device)
    reach = torch.full((len(end), heads), -(2 * row_block), dtype=torch.int64, device=offsets.device)
    for offset in offsets.any(0).nonzero().flatten().flip(0).tolist():
        wanted = (end - offset).clamp(min=row_block)
        use = offsets[:, offset] & (end > offset) & (wanted > reach)
        touches = wanted <= reach + row_block
        reach = torch.where(use, torch.where(touches, reach + row_block, wanted), reach)
        edges.scatter_add_(2, (reach - row_block).clamp(min=0)[..., None], use[..., None].to(torch.int32))
        edges.scatter_add_(2, reach.clamp(min=0)[..., None], -use[..., None].to(torch.int32))
    return edges.cumsum(2)[..., :length] > 0
