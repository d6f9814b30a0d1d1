# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
"""From kept columns and diagonals to token lists, one for each (query head, row block), in virtual units.

The diagonals that touch a row block of RB rows starting at s cover the keys s − d for every distance d that has a kept
offset in d … d + RB − 1. That set of distances is the same for all row blocks of a head, so it is found once
(`_list_distances`); a list is then: columns that no distance covers, the covered keys below the row block, and the row
block itself. Only the last part's order matters to attention; lists are not ascending where columns and diagonals mix.
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


class Pattern(NamedTuple):
    """One request's kept columns and diagonals, ready to be expanded."""

    columns: Tensor
    """int32 [Hq, L]: kept columns, ascending, padded behind num_columns."""
    num_columns: Tensor
    """int32 [Hq]."""
    offsets_before: Tensor
    """int32 [Hq, L]: kept offsets among 0 … i."""
    distances: Tensor
    """int32 [Hq, L]: distances ≥ 1 below a row block that are covered, ascending."""
    distances_before: Tensor
    """int32 [Hq, ⌈L / RB⌉]: distances up to s = r·RB, the start of row block r."""
    row_block: int


@triton.jit(do_not_specialize=CHANGING)
def _columns(prefix, columns, num_columns, length, BLOCK: tl.constexpr):
    head = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    here = tl.load(prefix + head * length + i, mask=i < length, other=0)
    before = tl.load(prefix + head * length + i - 1, mask=(i > 0) & (i < length), other=0)
    tl.store(columns + head * length + here - 1, i, mask=(i < length) & (here > before))
    tl.store(num_columns + head + i * 0, here, mask=i == length - 1)


@triton.jit
def _covers(before, distance, length, ROWS: tl.constexpr, mask):
    """Whether a kept offset lies in distance … distance + ROWS − 1, for distance ≥ 1."""
    high = tl.load(before + tl.minimum(distance + ROWS - 1, length - 1), mask=mask, other=0)
    low = tl.load(before + distance - 1, mask=mask, other=0)
    return mask & (high > low)


@triton.jit(do_not_specialize=CHANGING)
def _count_distances(before, tile_counts, length, num_tiles, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    tile, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    distance = 1 + tile * BLOCK + tl.arange(0, BLOCK)
    covered = _covers(before + head * length, distance, length, ROWS, distance < length)
    tl.store(tile_counts + head * num_tiles + tile, tl.sum(covered.to(tl.int32), 0))


@triton.jit(do_not_specialize=CHANGING)
def _list_distances(
    before, tile_counts, distances, distances_before, length, num_blocks, num_tiles,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    tile, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    t = tl.arange(0, TILES)
    found = tl.sum(tl.load(tile_counts + head * num_tiles + t, mask=t < tile, other=0), 0)
    distance = 1 + tile * BLOCK + tl.arange(0, BLOCK)
    covered = _covers(before + head * length, distance, length, ROWS, distance < length).to(tl.int32)
    rank = found + tl.cumsum(covered, 0)
    tl.store(distances + head * length + rank - 1, distance, mask=covered > 0)
    at_start = (distance % ROWS == 0) & (distance < length)
    tl.store(distances_before + head * num_blocks + distance // ROWS, rank, mask=at_start)
    if tile == 0:
        tl.store(distances_before + head * num_blocks, 0)


@triton.jit(do_not_specialize=CHANGING)
def _expand(
    columns, num_columns, offsets_before, distances, distances_before, block_table, table, lengths,
    first_head, first_block, num_blocks, length, width, page_units, token_stride_units, head_units, group, all_blocks,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, PAGE: tl.constexpr, PAGED: tl.constexpr,
):  # fmt: skip
    block, local_head = tl.program_id(0), tl.program_id(1)
    head = (first_head + local_head).to(tl.int64)
    start = (first_block + block) * ROWS
    stop = tl.minimum(start + ROWS, length)
    shift = (head // group * head_units).to(tl.int32)
    line = local_head.to(tl.int64) * num_blocks + num_blocks - 1 - block
    out = table + line * width
    i = tl.arange(0, BLOCK)
    found = 0
    total = tl.load(num_columns + head)
    for n in range(0, total, BLOCK):
        inside = n + i < total
        column = tl.load(columns + head * length + n + i, mask=inside, other=0)
        below = inside & (column < start)
        covered = _covers(offsets_before + head * length, start - column, length, ROWS, below)
        kept = (below & (covered == 0)).to(tl.int32)
        rank = found + tl.cumsum(kept, 0)
        unit = token_units(column, kept > 0, block_table, page_units, token_stride_units, PAGE, PAGED)
        tl.store(out + rank - 1, unit.to(tl.int32) + shift, mask=kept > 0)
        found += tl.sum(kept, 0)
    reach = tl.load(distances_before + head * all_blocks + first_block + block)
    for n in range(0, reach, BLOCK):
        inside = n + i < reach
        distance = tl.load(distances + head * length + reach - 1 - n - i, mask=inside, other=0)
        unit = token_units(start - distance, inside, block_table, page_units, token_stride_units, PAGE, PAGED)
        tl.store(out + found + n + i, unit.to(tl.int32) + shift, mask=inside)
    r = tl.arange(0, ROWS)
    own = token_units(start + r, start + r < stop, block_table, page_units, token_stride_units, PAGE, PAGED)
    tl.store(out + found + reach + r, own.to(tl.int32) + shift, mask=start + r < stop)
    tl.store(lengths + line, found + reach + stop - start)


def build_pattern(columns_before: Tensor, offsets_before: Tensor, row_block: int) -> Pattern:
    """Pattern from the prefix counts of kept columns and kept offsets, int32 [Hq, L] each (`order.top_prefix`)."""
    heads, length = columns_before.shape
    num_blocks = triton.cdiv(length, row_block)
    new: dict[str, Any] = dict(dtype=torch.int32, device=columns_before.device)
    columns, num_columns = torch.empty(heads, length, **new), torch.empty(heads, **new)
    distances, distances_before = torch.empty(heads, length, **new), torch.empty(heads, num_blocks, **new)
    _columns[(triton.cdiv(length, 1024), heads)](columns_before, columns, num_columns, length, BLOCK=1024)
    tiles = triton.cdiv(length, 1024)
    tile_counts = torch.empty(heads, tiles, **new)
    _count_distances[(tiles, heads)](offsets_before, tile_counts, length, tiles, ROWS=row_block, BLOCK=1024)
    _list_distances[(tiles, heads)](
        offsets_before, tile_counts, distances, distances_before, length, num_blocks, tiles,
        ROWS=row_block, BLOCK=1024, TILES=triton.next_power_of_2(tiles),
    )  # fmt: skip
    return Pattern(columns, num_columns, offsets_before, distances, distances_before, row_block)


def expand(
    pattern: Pattern, cache: VirtualCache, group: int, first_head: int, table: Tensor, lengths: Tensor,
) -> None:  # fmt: skip
    """Write the lists of the heads first_head … for the last row blocks into table [h, R, W] and lengths [h, R].

    Row blocks in falling order, so that the longest lists come first. W must hold the longest list.
    """
    heads, num_blocks, width = table.shape
    length = pattern.columns.shape[1]
    all_blocks = pattern.distances_before.shape[1]
    paged = cache.keys.shape[0] > 1
    _expand[(num_blocks, heads)](
        pattern.columns, pattern.num_columns, pattern.offsets_before, pattern.distances, pattern.distances_before,
        cache.block_table, table, lengths, first_head, all_blocks - num_blocks, num_blocks, length, width,
        cache.page_units, cache.token_units, cache.head_units, group, all_blocks,
        ROWS=pattern.row_block, BLOCK=1024, PAGE=cache.cache_page if paged else 1, PAGED=paged,
        num_warps=4,
    )  # fmt: skip
