# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
"""Block-sparse lists: pooled means, their products, and the best blocks of each row block, in three launches.

The definition is `sparsekernels.methods.block_sparse`. Means and products are float32.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsekernels.index.addresses import token_units
from sparsekernels.index.launch import CHANGING
from sparsekernels.index.order import ordered_bits, select_top
from sparsekernels.index.pack import packed_row
from sparsekernels.parameters import BlockSparse
from sparsekernels.virtual import VirtualCache


@triton.jit(do_not_specialize=CHANGING)
def _pool_queries(
    q, means, packed, stride_t, stride_h, first, num_rows, num_blocks, first_block,
    D: tl.constexpr, ROWS: tl.constexpr, PACK: tl.constexpr,
):  # fmt: skip
    """Mean of each row block; rows lie at positions first … first + num_rows − 1. Also copies q head by head."""
    block, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    position = (first_block + block) * ROWS + tl.arange(0, ROWS)
    row = (position - first).to(tl.int64)
    inside = (row >= 0) & (row < num_rows)
    d = tl.arange(0, D)
    x = tl.load(q + row[:, None] * stride_t + head * stride_h + d[None, :], mask=inside[:, None], other=0.0)
    if PACK:
        place = packed_row(row, first, num_rows, ROWS)
        tl.store(packed + (head * num_rows + place)[:, None] * D + d[None, :], x, mask=inside[:, None])
    mean = tl.sum(x.to(tl.float32), 0) / tl.sum(inside.to(tl.float32), 0)
    tl.store(means + (head * num_blocks + block) * D + d, mean)


@triton.jit(do_not_specialize=CHANGING)
def _pool_keys(
    k, block_table, means, page_units, token_stride_units, head_units, length, num_blocks,
    D: tl.constexpr, BLOCK: tl.constexpr, PAGE: tl.constexpr, PAGED: tl.constexpr,
):  # fmt: skip
    block, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    token = block * BLOCK + tl.arange(0, BLOCK)
    inside = token < length
    unit = token_units(token, inside, block_table, page_units, token_stride_units, PAGE, PAGED) + head * head_units
    d = tl.arange(0, D)
    x = tl.load(k + unit[:, None] * D + d[None, :], mask=inside[:, None], other=0.0).to(tl.float32)
    tl.store(means + (head * num_blocks + block) * D + d, tl.sum(x, 0) / tl.sum(inside.to(tl.float32), 0))


@triton.jit(do_not_specialize=CHANGING)
def _best_blocks(
    scores, block_table, table, lengths, first, length, num_rows, num_blocks, width, top, sinks, local, first_head,
    first_block, page_units, token_stride_units, head_units, group,
    ROWS: tl.constexpr, KEYS: tl.constexpr, PARTS: tl.constexpr, BLOCKS: tl.constexpr,
    PAGE: tl.constexpr, PAGED: tl.constexpr,
):  # fmt: skip
    row_block, local_head = tl.program_id(0), tl.program_id(1)
    line = local_head.to(tl.int64) * num_rows + row_block
    place = local_head.to(tl.int64) * num_rows + num_rows - 1 - row_block
    start = tl.maximum((first_block + row_block) * ROWS, first)
    stop = tl.minimum((first_block + row_block) * ROWS + ROWS, length)
    own, limit = start // KEYS, tl.cdiv(stop, KEYS)
    block = tl.arange(0, BLOCKS)
    allowed = block < limit
    x = tl.load(scores + line * num_blocks + block, mask=allowed, other=0.0)
    forced = (block < sinks) | (block >= own - local)
    key = tl.where(forced, 0x7FFFFFFF, tl.minimum(ordered_bits(x), 0x7FFFFFFE))
    chosen, rank = select_top(key, allowed, limit, tl.minimum(top, limit))
    shift = ((first_head + local_head) // group * head_units).to(tl.int32)
    for part in tl.static_range(PARTS):
        token = block * KEYS + part * (KEYS // PARTS)
        unit = token_units(token, chosen & (token < length), block_table, page_units, token_stride_units, PAGE, PAGED)
        unit = tl.where(token < length, unit.to(tl.int32), 0) + shift
        tl.store(table + place * width + (rank - 1) * PARTS + part, unit, mask=chosen)
    count = tl.minimum(top, limit)
    tl.store(lengths + place, (count - 1) * KEYS + stop - (limit - 1) * KEYS)


def pooled_queries(q: Tensor, length: int, row_block: int, pack: bool) -> tuple[Tensor, Tensor]:
    """Means float32 [Hq, R, D] of q [T, Hq, D], the last T of `length` positions; q as `pack_heads` does if `pack`."""
    num_rows, heads, d = q.shape
    first_block = (length - num_rows) // row_block
    num_blocks = triton.cdiv(length, row_block) - first_block
    means = torch.empty(heads, num_blocks, d, dtype=torch.float32, device=q.device)
    packed = torch.empty((heads, num_rows, d) if pack else (0,), dtype=q.dtype, device=q.device)
    _pool_queries[(num_blocks, heads)](
        q, means, packed, q.stride(0), q.stride(1), length - num_rows, num_rows, num_blocks, first_block,
        D=d, ROWS=row_block, PACK=pack,
    )  # fmt: skip
    return means, packed


def pooled_keys(cache: VirtualCache, length: int, block_size: int) -> Tensor:
    """Means float32 [Hkv, blocks, D] of the one sequence's first `length` keys."""
    num_blocks = triton.cdiv(length, block_size)
    heads, d = cache.num_kv_heads, cache.head_size
    means = torch.empty(heads, num_blocks, d, dtype=torch.float32, device=cache.keys.device)
    _pool_keys[(num_blocks, heads)](
        cache.keys, cache.block_table, means, cache.page_units, cache.token_units, cache.head_units, length,
        num_blocks, D=d, BLOCK=block_size, PAGE=cache.cache_page if cache.keys.shape[0] > 1 else 1,
        PAGED=cache.keys.shape[0] > 1,
    )  # fmt: skip
    return means


def best_blocks(
    scores: Tensor, cache: VirtualCache, parts: int, method: BlockSparse, *,
    first: int, length: int, first_head: int, group: int, table: Tensor, lengths: Tensor,
) -> None:  # fmt: skip
    """Lists from scores [h, R, blocks] into table [h, R, W] and lengths [h, R]; rows begin at position `first`.

    Row blocks in falling order, longest lists first; `parts` list pages make one block.
    """
    heads, rows, num_blocks = scores.shape
    blocks, paged = triton.next_power_of_2(num_blocks), cache.keys.shape[0] > 1
    _best_blocks[(rows, heads)](
        scores, cache.block_table, table, lengths, first, length, rows, num_blocks, table.shape[2], method.top_blocks,
        method.sink_blocks, method.local_blocks, first_head, first // method.rows, cache.page_units,
        cache.token_units, cache.head_units, group,
        ROWS=method.rows, KEYS=method.block_size, PARTS=parts, BLOCKS=blocks,
        PAGE=cache.cache_page if paged else 1, PAGED=paged,
        num_warps=min(16, max(1, blocks // 512)),
    )  # fmt: skip
