"""Sparse prefill with fused index building: Triton chooses, FlashAttention or our Triton kernel attends.

Called through `sparsekernels.prefill.sparse_prefill`. Nothing here reads the device from the host.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sparsekernels.attend import flash
from sparsekernels.executors import Executor
from sparsekernels.index import block_sparse as block_index
from sparsekernels.index import vertical_slash as slash_index
from sparsekernels.index.estimate import estimate_sums
from sparsekernels.index.order import top_prefix
from sparsekernels.kvcache import KeyValues
from sparsekernels.methods.flexprefill import coverage_counts
from sparsekernels.parameters import BlockSparse, FlexPrefill, VerticalSlash
from sparsekernels.prefill import PrefillMethod, PrefillResult, allowed_pairs
from sparsekernels.virtual import VirtualCache, VirtualLists, sequence_units, virtual_cache

WORKSPACE_BYTES = 1 << 30
"""Memory for page lists in one launch; longer work goes in several launches, a few heads each."""

Build = Callable[[int, Tensor, Tensor], None]
"""Write the lists of the heads from the first on into table [h, R, W] and lengths [h, R]."""


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
    out = torch.empty_like(q, memory_format=torch.contiguous_format) if out is None else out
    cache = virtual_cache(kv)
    if isinstance(method, BlockSparse):
        rows, page, width, packed, build = _block_sparse(q, cache, method, length, executor)
    else:
        rows, page, width, packed = row_block or 128, 1, length, None
        build = _vertical_slash(q, cache, method, length, rows, scale)
    pairs = _attend(q, packed, cache, executor, build, length, rows, page, width, scale, out)
    return PrefillResult(out, pairs, allowed_pairs(q.shape[0], length))


def list_page(cache: VirtualCache, page_size: int) -> int:
    """The largest page size that divides `page_size` and whose pages are contiguous in the cache."""
    return page_size if cache.keys.shape[0] == 1 else math.gcd(page_size, cache.cache_page)


def _block_sparse(
    q: Tensor, cache: VirtualCache, method: BlockSparse, length: int, executor: Executor
) -> tuple[int, int, int, Tensor, Build]:
    means, packed = block_index.pooled_queries(q, length, method.rows, pack=executor is Executor.FLASH)
    keys = block_index.pooled_keys(cache, length, method.block_size)
    group = q.shape[1] // cache.num_kv_heads
    page = list_page(cache, method.block_size)
    parts = method.block_size // page
    num_units = keys.shape[1] * parts
    units = sequence_units(cache, page, min(num_units, -(-length // page)))
    first = length - q.shape[0]

    def build(first_head: int, table: Tensor, lengths: Tensor) -> None:
        heads = slice(first_head, first_head + table.shape[0])
        kv_of_head = torch.arange(heads.start, heads.stop, device=q.device) // group
        scores = means[heads] @ keys[kv_of_head].transpose(1, 2)
        block_index.best_blocks(
            scores, units, parts, method, first=first, length=length, first_head=first_head,
            head_units=cache.head_units, group=group, table=table, lengths=lengths,
        )  # fmt: skip

    return method.rows, page, min(method.top_blocks, keys.shape[1]) * parts, packed, build


def _vertical_slash(
    q: Tensor, cache: VirtualCache, method: VerticalSlash | FlexPrefill, length: int, rows: int, scale: float
) -> Build:
    sums = estimate_sums(q, cache, length, method.window, scale)
    num_columns: int | Tensor
    num_offsets: int | Tensor
    if isinstance(method, VerticalSlash):
        num_columns, num_offsets = method.vertical_size, method.slash_size
    elif method.alpha == 0:
        num_columns = num_offsets = method.min_budget
    else:
        num_columns = coverage_counts(sums.columns / sums.num_rows, method.alpha, method.min_budget)
        num_offsets = coverage_counts(sums.diagonals / sums.num_rows, method.alpha, method.min_budget)
    pattern = slash_index.build_pattern(
        top_prefix(sums.columns, num_columns, method.sink_size),
        top_prefix(sums.diagonals, num_offsets, method.local_size),
        rows,
    )
    units = sequence_units(cache, 1, length)
    group = q.shape[1] // cache.num_kv_heads

    def build(first_head: int, table: Tensor, lengths: Tensor) -> None:
        slash_index.expand(pattern, units, cache.head_units, group, first_head, table, lengths)

    return build


def _attend(
    q: Tensor,
    packed: Tensor | None,
    cache: VirtualCache,
    executor: Executor,
    build: Build,
    length: int,
    rows: int,
    page: int,
    width: int,
    scale: float,
    out: Tensor,
) -> Tensor:
    """Build and attend, a few heads at a time; returns computed pairs int64 [Hq]."""
    num_rows, heads, _ = q.shape
    first = length - num_rows
    num_blocks = -(-length // rows) - first // rows
    together = max(1, min(heads, WORKSPACE_BYTES // (4 * num_blocks * width)))
    together = -(-heads // -(-heads // together))
    lengths = torch.empty(heads, num_blocks, dtype=torch.int32, device=q.device)
    table = torch.empty(together, num_blocks, width, dtype=torch.int32, device=q.device)
    for head in range(0, heads, together):
        stop = min(head + together, heads)
        lists = VirtualLists(table[: stop - head], lengths[head:stop], page)
        build(head, lists.table, lists.lengths)
        if executor is Executor.FLASH:
            source = None if packed is None else packed[head:stop]
            _attend_flash(q[:, head:stop], source, cache, lists, length, rows, scale, out[:, head:stop])
        else:
            from sparsekernels.attend import triton as portable

            portable.attend_lists(
                q[:, head:stop], cache, lists, length=length, row_block=rows, scale=scale, out=out[:, head:stop]
            )
    return _pairs(lengths, length, num_rows, rows)


def _attend_flash(
    q: Tensor, packed: Tensor | None, cache: VirtualCache, lists: VirtualLists, length: int, rows: int, scale: float,
    out: Tensor,
) -> None:  # fmt: skip
    num_rows, heads, d = q.shape
    starts = flash.row_starts(num_rows, length, rows, heads, q.device)
    if heads == 1:
        flash.attend_packed(q, cache, lists, starts, row_block=rows, length=length, scale=scale, out=out)
        return
    source = q.transpose(0, 1).contiguous() if packed is None else packed
    result = torch.empty(heads * num_rows, 1, d, dtype=q.dtype, device=q.device)
    flash.attend_packed(
        source.view(-1, 1, d), cache, lists, starts, row_block=rows, length=length, scale=scale, out=result
    )
    out.copy_(result.view(heads, num_rows, d).transpose(0, 1))


def _pairs(lengths: Tensor, length: int, num_rows: int, row_block: int) -> Tensor:
    """Computed pairs int64 [H] from list lengths [H, R]."""
    block = torch.arange(lengths.shape[1], device=lengths.device) + (length - num_rows) // row_block
    start = (block * row_block).clamp(min=length - num_rows)
    rows = (block * row_block + row_block).clamp(max=length) - start
    return (rows * (lengths.long() - rows) + rows * (rows + 1) // 2).sum(1)
