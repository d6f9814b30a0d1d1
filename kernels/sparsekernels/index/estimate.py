# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
"""Column and diagonal sums of the last rows' attention, fused: the scores never reach memory.

Pass 1 finds each row's log-sum-exp over splits of the keys. Pass 2 owns a tile of keys, recomputes the probabilities
of every window row for it, sums them by column, and by diagonal into a slot of its own; a last kernel adds the slots in
a fixed order. No atomics, so two runs give the same bits. The definition is `sparsekernels.methods.estimate`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsekernels.index.addresses import token_units
from sparsekernels.index.launch import CHANGING
from sparsekernels.virtual import VirtualCache

LOG2E = 1.4426950408889634


class Sums(NamedTuple):
    """Sums over the window rows of the estimated attention."""

    both: Tensor
    """float32 [2, Hq, L]: by key position, and by offset = query position − key position."""
    num_rows: int

    @property
    def columns(self) -> Tensor:
        return self.both[0]

    @property
    def diagonals(self) -> Tensor:
        return self.both[1]


@triton.jit(do_not_specialize=CHANGING)
def _lse_partials(
    q, k, block_table, partial,
    stride_qt, stride_qh, page_units, token_stride_units, head_units,
    num_queries, length, window, num_splits, tiles_per_split, scale_log2, group,
    D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PAGE: tl.constexpr, PAGED: tl.constexpr,
):  # fmt: skip
    tile, split, head = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    row = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    d = tl.arange(0, D)
    q_row = (num_queries - window + row).to(tl.int64)
    query = tl.load(
        q + q_row[:, None] * stride_qt + head * stride_qh + d[None, :], mask=row[:, None] < window, other=0.0
    )
    position = length - window + row
    high = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    begin = split * tiles_per_split * BLOCK_N
    stop = tl.minimum(begin + tiles_per_split * BLOCK_N, length)
    key_head = (head // group).to(tl.int64) * head_units
    for n in range(begin, stop, BLOCK_N):
        column = n + tl.arange(0, BLOCK_N)
        unit = token_units(column, column < length, block_table, page_units, token_stride_units, PAGE, PAGED)
        key = tl.load(k + (unit + key_head)[None, :] * D + d[:, None], mask=column[None, :] < length, other=0.0)
        scores = tl.dot(query, key, input_precision="ieee") * scale_log2
        if n + BLOCK_N > length - window:
            scores = tl.where(column[None, :] <= position[:, None], scores, float("-inf"))
        new = tl.maximum(high, tl.max(scores, 1))
        safe = tl.where(new == float("-inf"), 0.0, new)
        total = total * tl.exp2(high - safe) + tl.sum(tl.exp2(scores - safe[:, None]), 1)
        high = new
    lse = tl.where(total > 0, high + tl.log2(total), float("-inf"))
    tl.store(partial + (head.to(tl.int64) * num_splits + split) * window + row, lse, mask=row < window)


@triton.jit(do_not_specialize=CHANGING)
def _lse_merge(partial, lse, window, num_splits, SPLITS: tl.constexpr, BLOCK: tl.constexpr):
    head = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    split = tl.arange(0, SPLITS)
    inside = (split[:, None] < num_splits) & (row[None, :] < window)
    values = tl.load(
        partial + (head * num_splits + split[:, None]) * window + row[None, :], mask=inside, other=float("-inf")
    )
    high = tl.max(values, 0)
    safe = tl.where(high == float("-inf"), 0.0, high)
    result = safe + tl.log2(tl.sum(tl.exp2(values - safe[None, :]), 0))
    tl.store(lse + head * window + row, result, mask=row < window)


@triton.jit(do_not_specialize=CHANGING)
def _column_and_diagonal_sums(
    q, k, block_table, lse, columns, slots,
    stride_qt, stride_qh, page_units, token_stride_units, head_units,
    num_queries, length, window, num_row_tiles, num_key_tiles, scale_log2, group,
    D: tl.constexpr, BLOCK: tl.constexpr, PAGE: tl.constexpr, PAGED: tl.constexpr,
):  # fmt: skip
    tile, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    column = tile * BLOCK + tl.arange(0, BLOCK)
    d = tl.arange(0, D)
    unit = token_units(column, column < length, block_table, page_units, token_stride_units, PAGE, PAGED)
    unit += (head // group) * head_units
    key = tl.load(k + unit[:, None] * D + d[None, :], mask=column[:, None] < length, other=0.0)
    i = tl.arange(0, BLOCK)
    # Keys are the rows of every tile here, so that both sums run along a tile's rows, inside a thread.
    # turned[c, i] = (i − c) mod BLOCK: row c of `skewed` holds one diagonal of the tile, wrapped around once.
    turned = (i[None, :] - i[:, None]) & (BLOCK - 1)
    straight = i[None, :] >= i[:, None]
    column_sums = tl.zeros([BLOCK], tl.float32)
    carry = tl.zeros([BLOCK], tl.float32)
    slot = slots + ((head * num_key_tiles + tile) * (num_row_tiles + 1)) * BLOCK
    for m in range(0, num_row_tiles):
        row = m * BLOCK + i
        q_row = (num_queries - window + row).to(tl.int64)
        query = tl.load(
            q + q_row[None, :] * stride_qt + head * stride_qh + d[:, None], mask=row[None, :] < window, other=0.0
        )
        norm = tl.load(lse + head * window + row, mask=row < window, other=float("inf"))
        scores = tl.dot(key, query, input_precision="ieee") * scale_log2
        p = tl.exp2(scores - norm[None, :])
        if tile * BLOCK + BLOCK > length - window:
            p = tl.where(column[:, None] <= length - window + row[None, :], p, 0.0)
        column_sums += tl.sum(p, 1)
        skewed = tl.gather(p, turned, 0)
        # A diagonal's part before the wrap continues in the part behind it of the next row tile.
        tl.store(slot + m * BLOCK + i, carry + tl.sum(tl.where(straight, 0.0, skewed), 1))
        carry = tl.sum(tl.where(straight, skewed, 0.0), 1)
    tl.store(slot + num_row_tiles * BLOCK + i, carry)
    tl.store(columns + head * length + column, column_sums, mask=column < length)


@triton.jit(do_not_specialize=CHANGING)
def _add_slots(slots, diagonals, length, window, num_row_tiles, num_key_tiles, BLOCK: tl.constexpr):
    """Slot t of key tile n holds the offsets (length − window) + (t − 1 − n)·BLOCK + 0 … BLOCK − 1."""
    head = tl.program_id(1).to(tl.int64)
    step = tl.program_id(0) - num_key_tiles
    c = tl.arange(0, BLOCK)
    offset = length - window + step * BLOCK + c
    total = tl.zeros([BLOCK], tl.float32)
    for t in range(0, num_row_tiles + 1):
        n = t - 1 - step
        if (n >= 0) & (n < num_key_tiles):
            total += tl.load(slots + ((head * num_key_tiles + n) * (num_row_tiles + 1) + t) * BLOCK + c)
    tl.store(diagonals + head * length + offset, total, mask=(offset >= 0) & (offset < length))


def row_norms(q: Tensor, cache: VirtualCache, length: int, window: int, scale: float, *, block: int = 128) -> Tensor:
    """Log-sum-exp, base 2, of the last `window` rows' scaled scores, float32 [Hq, window]; see `estimate_sums`."""
    num_queries, heads, d = q.shape
    paged = cache.keys.shape[0] > 1
    tiles = triton.cdiv(length, block)
    per_split = triton.cdiv(tiles, min(16, tiles))
    splits = triton.cdiv(tiles, per_split)
    partial = torch.empty(heads, splits, window, dtype=torch.float32, device=q.device)
    lse = torch.empty(heads, window, dtype=torch.float32, device=q.device)
    _lse_partials[(triton.cdiv(window, block), splits, heads)](
        q, cache.keys, cache.block_table, partial,
        q.stride(0), q.stride(1), cache.page_units, cache.token_units, cache.head_units,
        num_queries, length, window, splits, per_split, scale * LOG2E, heads // cache.num_kv_heads,
        D=d, BLOCK_M=block, BLOCK_N=block, PAGE=cache.cache_page if paged else 1, PAGED=paged,
        num_warps=8, num_stages=2,
    )  # fmt: skip
    _lse_merge[(triton.cdiv(window, 64), heads)](
        partial, lse, window, splits, SPLITS=triton.next_power_of_2(splits), BLOCK=64
    )
    return lse


def estimate_sums(
    q: Tensor,
    cache: VirtualCache,
    length: int,
    window: int,
    scale: float,
    *,
    block: int = 128,
    sum_block: int = 64,
    sum_warps: int = 4,
    sum_registers: int | None = 168,
) -> Sums:
    """Sums for q [T, Hq, D], the last T positions of the one sequence of `length` tokens in `cache`.

    `block`, `sum_block`, `sum_warps` and `sum_registers` shape the two passes; the defaults were fastest on an H200.
    """
    num_queries, heads, d = q.shape
    window = min(window, num_queries)
    paged = cache.keys.shape[0] > 1
    group, scale_log2 = heads // cache.num_kv_heads, scale * LOG2E
    new: dict[str, Any] = dict(dtype=torch.float32, device=q.device)
    lse = row_norms(q, cache, length, window, scale, block=block)
    both = torch.empty(2, heads, length, **new)
    key_tiles, row_tiles = triton.cdiv(length, sum_block), triton.cdiv(window, sum_block)
    slots = torch.empty(heads, key_tiles, row_tiles + 1, sum_block, **new)
    shape: dict[str, Any] = dict(D=d, PAGE=cache.cache_page if paged else 1, PAGED=paged)
    where = (q.stride(0), q.stride(1), cache.page_units, cache.token_units, cache.head_units)
    _column_and_diagonal_sums[(key_tiles, heads)](
        q, cache.keys, cache.block_table, lse, both[0], slots, *where,
        num_queries, length, window, row_tiles, key_tiles, scale_log2, group,
        BLOCK=sum_block, num_warps=sum_warps, num_stages=2, maxnreg=sum_registers, **shape,
    )  # fmt: skip
    _add_slots[(key_tiles + row_tiles + 1, heads)](
        slots, both[1], length, window, row_tiles, key_tiles, BLOCK=sum_block
    )
    return Sums(both, window)
