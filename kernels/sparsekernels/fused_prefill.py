"""Sparse prefill with fused index building: Triton chooses, FlashAttention or our Triton kernel attends.

Called through `sparsekernels.prefill.sparse_prefill`. Nothing here reads the device from the host.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from sparsekernels.attend import flash
from sparsekernels.attend.triton import attend_lists
from sparsekernels.executors import Executor
from sparsekernels.index import block_sparse as block_index
from sparsekernels.index import vertical_slash as slash_index
from sparsekernels.index.estimate import estimate_sums
from sparsekernels.index.order import Covering, top_prefix
from sparsekernels.index.pack import pack_heads, unpack_heads
from sparsekernels.kvcache import KeyValues
from sparsekernels.parameters import BlockSparse, FlexPrefill, VerticalSlash
from sparsekernels.prefill import PrefillMethod, PrefillResult, allowed_pairs
from sparsekernels.selection import Selection
from sparsekernels.virtual import VirtualCache, VirtualLists, sequence_units, virtual_cache

WORKSPACE_BYTES = 1 << 30
"""Memory for page lists in one launch; longer work goes in several launches, a few heads each."""

Build = Callable[[int, Tensor, Tensor], None]
"""Write the lists of the heads from the first on into table [h, R, W] and lengths [h, R]."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One request's chosen pattern, ready to be written out as lists."""

    row_block: int
    page_size: int
    width: int
    """Widest list, pages."""
    packed: Tensor | None
    """Queries [Hq, T, D], if choosing made a copy head by head."""
    build: Build


def sparse_prefill(
    q: Tensor,
    kv: KeyValues,
    method: PrefillMethod,
    *,
    length: int,
    executor: Executor,
    scale: float | None = None,
    row_block: int | None = None,
    out: Tensor | None = None,
) -> PrefillResult:
    """See `sparsekernels.prefill.sparse_prefill`; `executor` is FLASH or TRITON."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device) if out is None else out
    cache = virtual_cache(kv)
    plan = make_plan(q, cache, method, length=length, executor=executor, scale=scale, row_block=row_block)
    return _attend_plan(plan, q, cache, length, executor, scale, out)


def attend_selection(
    q: Tensor,
    kv: KeyValues,
    selection: Selection,
    *,
    length: int,
    executor: Executor,
    scale: float | None = None,
    out: Tensor | None = None,
) -> PrefillResult:
    """See `sparsekernels.prefill.attend_selection`; `executor` is FLASH or TRITON."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device) if out is None else out
    cache = virtual_cache(kv)
    return _attend_plan(_written_out(selection, cache, q.shape[1], length), q, cache, length, executor, scale, out)


def _written_out(selection: Selection, cache: VirtualCache, heads: int, length: int) -> Plan:
    """A selection of one sequence, as lists of units: its pages cut into pages that are contiguous in the cache."""
    page = list_page(cache, selection.page_size)
    parts = selection.page_size // page
    units = sequence_units(cache, page, -(-length // page))
    pages = (selection.pages.long()[..., None] * parts + torch.arange(parts, device=units.device)).flatten(-2)
    group, per_list = heads // cache.num_kv_heads, heads // selection.num_heads
    starts = units[pages.clamp(0, len(units) - 1)].transpose(0, 1).flip(1)
    counts = selection.lengths.T.flip(1)

    def build(first_head: int, table: Tensor, lengths: Tensor) -> None:
        head = torch.arange(first_head, first_head + table.shape[0], device=units.device)
        torch.add(starts[head // per_list], (head // group * cache.head_units)[:, None, None], out=table)
        lengths.copy_(counts[head // per_list])

    return Plan(_checked(selection.row_block), page, pages.shape[-1], None, build)


def _attend_plan(
    plan: Plan, q: Tensor, cache: VirtualCache, length: int, executor: Executor, scale: float, out: Tensor
) -> PrefillResult:
    flash_rows = executor is Executor.FLASH
    starts = flash.row_starts(q.shape[0], length, plan.row_block, q.shape[1], q.device) if flash_rows else None

    def attend(heads: slice, lists: VirtualLists) -> None:
        if starts is not None:
            packed = None if plan.packed is None else plan.packed[heads]
            _attend_flash(q[:, heads], packed, cache, lists, starts, length, plan.row_block, scale, out[:, heads])
        else:
            attend_lists(
                q[:, heads], cache, lists, length=length, row_block=plan.row_block, scale=scale, out=out[:, heads]
            )

    lengths = run_plan(plan, q, length, attend)
    return PrefillResult(out, pairs_of(lengths, length, q.shape[0], plan.row_block), allowed_pairs(q.shape[0], length))


def list_lengths(
    q: Tensor, kv: KeyValues, method: PrefillMethod, *, length: int, scale: float | None = None,
    row_block: int | None = None,
) -> Tensor:  # fmt: skip
    """Build the lists without attending: their lengths int32 [Hq, R], tokens, row blocks in rising order."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    plan = make_plan(
        q, virtual_cache(kv), method, length=length, executor=Executor.TRITON, scale=scale, row_block=row_block
    )
    return run_plan(plan, q, length, lambda heads, lists: None)


def make_plan(
    q: Tensor, cache: VirtualCache, method: PrefillMethod, *, length: int, executor: Executor, scale: float,
    row_block: int | None = None,
) -> Plan:  # fmt: skip
    """Estimate and choose for q [T, Hq, D], the last T of `length` positions of the one sequence in `cache`."""
    if isinstance(method, BlockSparse):
        return _block_sparse(q, cache, method, length, executor)
    rows = _checked(128 if row_block is None else row_block)
    build = _vertical_slash(q, cache, method, length, rows, scale)
    return Plan(rows, 1, _longest_list(method, length, rows), None, build)


def _checked(row_block: int) -> int:
    if row_block < 16 or row_block & (row_block - 1):
        raise ValueError(f"row_block is {row_block}; the kernels need a power of two, at least 16")
    return row_block


def _longest_list(method: VerticalSlash | FlexPrefill, length: int, rows: int) -> int:
    """Most tokens in a list: all, or fewer when few columns and offsets are kept (one offset covers `rows` keys)."""
    if isinstance(method, VerticalSlash):
        columns, offsets = method.vertical_size, method.slash_size
    elif method.alpha == 0:
        columns = offsets = method.min_budget
    else:
        return length
    return min(length, max(columns, method.sink_size) + rows * (max(offsets, method.local_size) + 1))


def run_plan(plan: Plan, q: Tensor, length: int, attend: Callable[[slice, VirtualLists], None]) -> Tensor:
    """Write the lists of a few heads at a time and attend to them; returns lengths int32 [Hq, R], rising row blocks."""
    num_rows, heads, _ = q.shape
    num_blocks = -(-length // plan.row_block) - (length - num_rows) // plan.row_block
    together = max(1, min(heads, WORKSPACE_BYTES // (4 * num_blocks * plan.width)))
    together = -(-heads // -(-heads // together))
    lengths = torch.empty(heads, num_blocks, dtype=torch.int32, device=q.device)
    table = torch.empty(together, num_blocks, plan.width, dtype=torch.int32, device=q.device)
    for head in range(0, heads, together):
        chosen = slice(head, min(head + together, heads))
        lists = VirtualLists(table[: chosen.stop - head], lengths[chosen], plan.page_size)
        plan.build(head, lists.table, lists.lengths)
        attend(chosen, lists)
    return lengths.flip(1)


def list_page(cache: VirtualCache, page_size: int) -> int:
    """The largest page size that divides `page_size`, is contiguous in the cache and no larger than it."""
    if cache.keys.shape[0] > 1:
        return math.gcd(page_size, cache.cache_page)
    return min(page_size, 1 << (cache.cache_page.bit_length() - 1))


def _block_sparse(q: Tensor, cache: VirtualCache, method: BlockSparse, length: int, executor: Executor) -> Plan:
    means, packed = block_index.pooled_queries(q, length, method.rows, pack=executor is Executor.FLASH)
    keys = block_index.pooled_keys(cache, length, method.block_size)
    group = q.shape[1] // cache.num_kv_heads
    page = list_page(cache, method.block_size)
    parts = method.block_size // page

    def build(first_head: int, table: Tensor, lengths: Tensor) -> None:
        heads = slice(first_head, first_head + table.shape[0])
        block_index.best_blocks(
            _scores(means[heads], keys, group, first_head), cache, parts, method, first=length - q.shape[0],
            length=length, first_head=first_head, group=group, table=table, lengths=lengths,
        )  # fmt: skip

    width = min(method.top_blocks, keys.shape[1]) * parts
    return Plan(method.rows, page, width, packed if packed.numel() else None, build)


def _scores(means: Tensor, keys: Tensor, group: int, first_head: int) -> Tensor:
    """means [h, R, D] of query heads from `first_head` on times keys [Hkv, blocks, D]: float32 [h, R, blocks]."""
    heads, rows, d = means.shape
    if heads == group * len(keys):
        return (means.view(len(keys), group * rows, d) @ keys.transpose(1, 2)).view(heads, rows, -1)
    kv_of_head = torch.arange(first_head, first_head + heads, device=keys.device) // group
    return means @ keys[kv_of_head].transpose(1, 2)


def _vertical_slash(
    q: Tensor, cache: VirtualCache, method: VerticalSlash | FlexPrefill, length: int, rows: int, scale: float
) -> Build:
    sums = estimate_sums(q, cache, length, method.window, scale)
    counts: tuple[int, int] | Covering
    if isinstance(method, VerticalSlash):
        counts = (method.vertical_size, method.slash_size)
    elif method.alpha == 0:
        counts = (method.min_budget, method.min_budget)
    else:
        counts = Covering(float(method.alpha), method.min_budget, sums.num_rows)
    before = top_prefix(sums.both, counts, (method.sink_size, method.local_size))
    pattern = slash_index.build_pattern(before[0], before[1], rows)
    group = q.shape[1] // cache.num_kv_heads

    def build(first_head: int, table: Tensor, lengths: Tensor) -> None:
        slash_index.expand(pattern, cache, group, first_head, table, lengths)

    return build


def _attend_flash(
    q: Tensor, packed: Tensor | None, cache: VirtualCache, lists: VirtualLists, starts: Tensor, length: int, rows: int,
    scale: float, out: Tensor,
) -> None:  # fmt: skip
    num_rows, heads, d = q.shape
    source = pack_heads(q, rows, length - num_rows) if packed is None else packed
    result = torch.empty(heads * num_rows, 1, d, dtype=q.dtype, device=q.device)
    flash.attend_packed(
        source.view(-1, 1, d),
        cache,
        lists,
        starts[: lists.lengths.numel() + 1],
        row_block=rows,
        length=length,
        scale=scale,
        out=result,
    )
    unpack_heads(result.view(heads, num_rows, d), out, rows, length - num_rows)


def pairs_of(lengths: Tensor, length: int, num_rows: int, row_block: int) -> Tensor:
    """Computed pairs int64 [H] from list lengths [H, R]."""
    rows, missing = _rows_of_blocks(lengths.shape[1], length, num_rows, row_block, lengths.device)
    return (lengths * rows).sum(1) - missing


@lru_cache(maxsize=16)
def _rows_of_blocks(
    num_blocks: int, length: int, num_rows: int, row_block: int, device: torch.device
) -> tuple[Tensor, int]:
    """Rows in each row block, int64 [R], and the pairs with later rows of their own block, which are not computed."""
    block = torch.arange(num_blocks) + (length - num_rows) // row_block
    start = (block * row_block).clamp(min=length - num_rows)
    rows = (block * row_block + row_block).clamp(max=length) - start
    return rows.to(device), int((rows * (rows - 1) // 2).sum())
