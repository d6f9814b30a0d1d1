"""Block-sparse: top key blocks per row block by mean-pooled queries and keys, per query head (Sparse Frontier, §3).

score(m, b) = mean of the queries of row block m · mean of the keys of block b, unscaled. A key block is allowed when it
begins before the row block ends. Forced: the first sink_blocks, every block that overlaps the row block, and the
local_blocks just below them; forced ones count. The best top_blocks stay (all, when fewer are allowed); ties go to the
lower block. Means are over the tokens that are there: a last partial block is divided by its own size (the reference
implementation pads it with zeros).
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparsekernels.parameters import BlockSparse
from sparsekernels.ranking import top_mask
from sparsekernels.selection import Rows, Selection, from_page_mask, rows_of_sequence


def pooled_means(x: Tensor, block_of_row: Tensor, num_blocks: int) -> Tensor:
    """Mean over the rows of x [N, H, D] of each block: [H, num_blocks, D], float32 (float64 stays)."""
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    sums = torch.zeros(num_blocks, *x.shape[1:], dtype=dtype, device=x.device).index_add_(0, block_of_row, x.to(dtype))
    sizes = torch.bincount(block_of_row, minlength=num_blocks).clamp(min=1)
    return (sums / sizes[:, None, None]).transpose(0, 1)


def block_scores(q: Tensor, k: Tensor, rows: Rows, block_size: int) -> Tensor:
    """score(m, b) for every row block and key block, [R, Hq, blocks], no mask applied."""
    num_blocks = -(-k.shape[0] // block_size)
    row_of_query = torch.repeat_interleave(torch.arange(len(rows.count), device=q.device), rows.count)
    queries = pooled_means(q, row_of_query, len(rows.count))
    keys = pooled_means(k, torch.arange(k.shape[0], device=k.device) // block_size, num_blocks)
    return (queries @ keys.repeat_interleave(q.shape[1] // k.shape[1], 0).transpose(1, 2)).transpose(0, 1)


def block_limits(rows: Rows, parameters: BlockSparse) -> tuple[Tensor, Tensor]:
    """For each row block: its first overlapped key block, and one past its last; int64 [R]."""
    return rows.position // parameters.block_size, -(-rows.end // parameters.block_size)


def select(q: Tensor, k: Tensor, parameters: BlockSparse) -> Selection:
    """Lists of blocks (page_size = block_size) per query head for q [T, Hq, D], the last T rows over k [L, Hkv, D]."""
    rows = rows_of_sequence(q.shape[0], k.shape[0], parameters.rows, device=q.device)
    scores = block_scores(q, k, rows, parameters.block_size)
    return selection_of(scores, rows, parameters)


def selection_of(scores: Tensor, rows: Rows, parameters: BlockSparse) -> Selection:
    """Selection from scores [R, Hq, blocks] by the rules of the module's text."""
    block = torch.arange(scores.shape[-1], device=scores.device)
    first, stop = (x[:, None] for x in block_limits(rows, parameters))
    allowed = block < stop
    forced = (block < parameters.sink_blocks) | (block >= first - parameters.local_blocks)
    ranked = scores.masked_fill((forced & allowed)[:, None], float("inf")).masked_fill(~allowed[:, None], -float("inf"))
    mask = top_mask(ranked, parameters.top_blocks) & allowed[:, None]
    return from_page_mask(
        rows,
        mask,
        page_size=parameters.block_size,
        row_block=parameters.rows,
        width=min(parameters.top_blocks, scores.shape[-1]),
    )
