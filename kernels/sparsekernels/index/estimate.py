# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
"""Column and diagonal sums of the last rows' attention, fused: the scores never reach memory.

Pass 1 finds each row's log-sum-exp over splits of the keys. Pass 2 recomputes the probabilities, a band of square tiles
at a time: a tile of keys with the first tile of rows, the next with the second, and so on. Tiles of one band have the
same offsets in the same places, so they are added up first and summed along their diagonals once. Columns are summed
tile by tile. Every sum has a slot of its own, and a last kernel adds the slots in a fixed order. No atomics, so two
runs give the same bits. The definition is `sparsekernels.methods.estimate`.
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
        scores = tl.dot(query, key, input_precision="ieee")
        if n + BLOCK_N > length - window:
            scores = tl.where(column[None, :] <= position[:, None], scores, float("-inf"))
        # Scaling after the maximum leaves one multiply-add for each score.
        new = tl.maximum(high, tl.max(scores, 1) * scale_log2)
        safe = tl.where(new == float("-inf"), 0.0, new)
        total = total * tl.exp2(high - safe) + tl.sum(tl.exp2(scores * scale_log2 - safe[:, None]), 1)
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
def _band_sums(
    q, k, block_table, lse, column_slots, band_slots,
    stride_qt, stride_qh, page_units, token_stride_units, head_units,
    num_queries, length, window, num_row_tiles, num_key_tiles, scale_log2, group,
    D: tl.constexpr, BLOCK: tl.constexpr, PAGE: tl.constexpr, PAGED: tl.constexpr,
):  # fmt: skip
    """Band b has row tile m with key tile b + m, from b = 1 − row tiles on.

    Its first slot holds the BLOCK offsets from o = length − window − b·BLOCK on, its second the BLOCK offsets below o.
    """
    band, head = tl.program_id(0) - (num_row_tiles - 1), tl.program_id(1).to(tl.int64)
    i, d = tl.arange(0, BLOCK), tl.arange(0, D)
    head_unit = (head // group) * head_units
    total = tl.zeros([BLOCK, BLOCK], tl.float32)
    for m in range(tl.maximum(0, -band), tl.minimum(num_row_tiles, num_key_tiles - band)):
        tile = band + m
        column, row = tile * BLOCK + i, m * BLOCK + i
        unit = token_units(column, column < length, block_table, page_units, token_stride_units, PAGE, PAGED)
        unit += head_unit
        key = tl.load(k + unit[:, None] * D + d[None, :], mask=column[:, None] < length, other=0.0)
        q_row = (num_queries - window + row).to(tl.int64)
        query = tl.load(
            q + q_row[None, :] * stride_qt + head * stride_qh + d[:, None], mask=row[None, :] < window, other=0.0
        )
        norm = tl.load(lse + head * window + row, mask=row < window, other=float("inf"))
        # Keys are the rows of every tile here, so that all sums run along a tile's rows, inside a thread.
        p = tl.exp2(tl.dot(key, query, input_precision="ieee") * scale_log2 - norm[None, :])
        if tile * BLOCK + BLOCK > length - window:
            p = tl.where(column[:, None] <= length - window + row[None, :], p, 0.0)
        tl.store(column_slots + ((head * num_key_tiles + tile) * num_row_tiles + m) * BLOCK + i, tl.sum(p, 1))
        total += p
    # Row c of `skewed` is one diagonal of the tile, wrapped around once: [c, i] is total[(i − c) mod BLOCK, i].
    skewed = tl.gather(total, (i[None, :] - i[:, None]) & (BLOCK - 1), 0)
    straight = i[None, :] >= i[:, None]
    slot = band_slots + (head * tl.num_programs(0) + tl.program_id(0)) * 2 * BLOCK
    tl.store(slot + i, tl.sum(tl.where(straight, skewed, 0.0), 1))
    tl.store(slot + BLOCK + i, tl.sum(tl.where(straight, 0.0, skewed), 1))


@triton.jit(do_not_specialize=CHANGING)
def _add_columns(column_slots, columns, length, num_row_tiles, num_key_tiles, BLOCK: tl.constexpr):
    tile, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    i = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for m in range(0, num_row_tiles):
        total += tl.load(column_slots + ((head * num_key_tiles + tile) * num_row_tiles + m) * BLOCK + i)
    column = tile * BLOCK + i
    tl.store(columns + head * length + column, total, mask=column < length)


@triton.jit(do_not_specialize=CHANGING)
def _add_bands(band_slots, diagonals, length, window, num_row_tiles, num_bands, BLOCK: tl.constexpr):
    """BLOCK offsets: the first slot of a band and the second one of the band before it, where there are such."""
    place, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    i = tl.arange(0, BLOCK)
    slot = band_slots + (head * num_bands + place) * 2 * BLOCK
    total = tl.zeros([BLOCK], tl.float32)
    if place < num_bands:
        total += tl.load(slot + i)
    if place > 0:
        total += tl.load(slot - BLOCK + i)
    offset = length - window - (place - (num_row_tiles - 1)) * BLOCK + i
    tl.store(diagonals + head * length + offset, total, mask=(offset >= 0) & (offset < length))


def row_norms(
    q: Tensor, cache: VirtualCache, length: int, window: int, scale: float, *, block: int = 128, splits: int = 14
) -> Tensor:
    """Log-sum-exp, base 2, of the last `window` rows' scaled scores, float32 [Hq, window]; see `estimate_sums`.

    At most `splits` programs share the keys of `block` rows; the defaults were fastest for 28 heads on Hopper.
    """
    num_queries, heads, d = q.shape
    paged = cache.keys.shape[0] > 1
    tiles = triton.cdiv(length, block)
    per_split = triton.cdiv(tiles, min(splits, tiles))
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


def estimate_sums(q: Tensor, cache: VirtualCache, length: int, window: int, scale: float, *, block: int = 64) -> Sums:
    """Sums for q [T, Hq, D], the last T positions of the one sequence of `length` tokens in `cache`.

    Tiles of `block` rows and keys make the bands; 64, with four warps and two stages, was fastest on Hopper.
    """
    num_queries, heads, d = q.shape
    window = min(window, num_queries)
    paged = cache.keys.shape[0] > 1
    new: dict[str, Any] = dict(dtype=torch.float32, device=q.device)
    lse = row_norms(q, cache, length, window, scale)
    both = torch.empty(2, heads, length, **new)
    key_tiles, row_tiles = triton.cdiv(length, block), triton.cdiv(window, block)
    bands = key_tiles + row_tiles - 1
    column_slots = torch.empty(heads, key_tiles, row_tiles, block, **new)
    band_slots = torch.empty(heads, bands, 2, block, **new)
    _band_sums[(bands, heads)](
        q, cache.keys, cache.block_table, lse, column_slots, band_slots,
        q.stride(0), q.stride(1), cache.page_units, cache.token_units, cache.head_units,
        num_queries, length, window, row_tiles, key_tiles, scale * LOG2E, heads // cache.num_kv_heads,
        D=d, BLOCK=block, PAGE=cache.cache_page if paged else 1, PAGED=paged, num_warps=4, num_stages=2,
    )  # fmt: skip
    _add_columns[(key_tiles, heads)](column_slots, both[0], length, row_tiles, key_tiles, BLOCK=block)
    _add_bands[(bands + 1, heads)](band_slots, both[1], length, window, row_tiles, bands, BLOCK=block)
    return Sums(both, window)
