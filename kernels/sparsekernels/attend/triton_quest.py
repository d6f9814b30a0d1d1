# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
"""A Quest step in two launches: bounds of all pages, then ranking, attention over the best pages and merge together.

A row is a (request, KV head), cut into parts. Every part ranks all of the row's pages by itself (their bounds lie in
the L2 cache) and attends to its share of the best ones; the last part to arrive merges. The definition is
`sparsekernels.methods.quest`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsekernels.attend.triton_decode import (
    GRAIN,
    LOG2E,
    attend_range,
    load_group,
    merge_options,
    shared_counters,
    split_range,
    store_merged,
)
from sparsekernels.index.launch import launch_options, wait_and_release
from sparsekernels.index.order import ordered_bits, select_top
from sparsekernels.index.quest import launch_bounds

MAX_PAGES = 1 << 13
"""Most pages of a sequence that every part ranks by itself."""


@dataclass(frozen=True, slots=True)
class StepShape:
    """How the second launch is cut."""

    programs: int = 256
    tile: int = 64
    """Tokens that a part attends to at once."""
    warps: int = 8
    stages: int = 3


@triton.jit
def _rank_and_attend(
    q, k, v, out, block_table, seq_lens, budgets, scores, table, partial, norms, arrivals,
    stride_qb, stride_qh, stride_ob, stride_oh, stride_kp, stride_kt, stride_kh, stride_bt,
    num_pages, width, scale_log2,
    D: tl.constexpr, KV_HEADS: tl.constexpr, GROUP: tl.constexpr, GROUP_PAD: tl.constexpr, PAGE: tl.constexpr,
    CACHE_PAGE: tl.constexpr, PAGES: tl.constexpr, BLOCK: tl.constexpr, GRAIN: tl.constexpr,
    SPLITS: tl.constexpr, COLUMNS: tl.constexpr, SKIP_EMPTY: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    RATIO: tl.constexpr = CACHE_PAGE // PAGE
    part, row, parts = tl.program_id(0), tl.program_id(1), tl.num_programs(0)
    batch, head = row // KV_HEADS, row % KV_HEADS
    seq_len = tl.load(seq_lens + batch)
    want = tl.load(budgets + batch) // PAGE
    page = tl.arange(0, PAGES)
    block = tl.load(block_table + batch.to(tl.int64) * stride_bt + page // RATIO, mask=page < num_pages, other=0)
    query = load_group(q, batch, head, stride_qb, stride_qh, D, GROUP, GROUP_PAD)
    current = (seq_len - 1) // PAGE
    valid = page < current
    # What is read above is older than the kernel before this one.
    wait_and_release(EARLY)
    bounds = tl.load(scores + row.to(tl.int64) * num_pages + page, mask=page < num_pages, other=0.0)
    chosen, rank = select_top(ordered_bits(bounds), valid, tl.maximum(current, 0), want)
    count = tl.minimum(tl.minimum(want, current) + 1, seq_len)
    total = tl.where(seq_len > 0, (count - 1) * PAGE + seq_len - current * PAGE, 0)
    begin, stop, used = split_range(total, part, parts, BLOCK, GRAIN)
    # A part lists its own pages only; parts that share a page write the same number.
    line = table + row.to(tl.int64) * width
    place = tl.where(page == current, count, rank) - 1
    own = (chosen | (page == current)) & (place >= begin // PAGE) & (place * PAGE < stop)
    tl.store(line + place, block * RATIO + page % RATIO, mask=own)
    tl.debug_barrier()
    high = tl.full([GROUP_PAD], float("-inf"), tl.float32)
    norm = tl.zeros([GROUP_PAD], tl.float32)
    acc = tl.zeros([GROUP_PAD, D], tl.float32)
    high, norm, acc = attend_range(
        high, norm, acc, query, k, v, line, begin, stop, head.to(tl.int64) * stride_kh, stride_kp, stride_kt,
        scale_log2, D, PAGE, CACHE_PAGE, BLOCK,
    )  # fmt: skip
    first_head = out + batch.to(tl.int64) * stride_ob + head * GROUP * stride_oh
    store_merged(
        high, norm, acc, first_head, stride_oh, partial, norms, arrivals, row, part, parts, used,
        (total > 0) | (not SKIP_EMPTY), D, GROUP, GROUP_PAD, SPLITS, COLUMNS,
    )  # fmt: skip


def quest_step(
    q: Tensor, store: Tensor, keys: Tensor, values: Tensor, block_table: Tensor, seq_lens: Tensor, budgets: Tensor, *,
    page_size: int, max_budget: int, scale: float, out: Tensor, skip_empty: bool = False,
    new_keys: tuple[Tensor, Tensor] | None = None, shape: StepShape = StepShape(),
) -> Tensor:  # fmt: skip
    """Select pages shared by each KV head's query heads and attend to them: q [B, Hq, D] into out [B, Hq, D].

    The rest as in `index.quest.select`. Rows without tokens become zero, or stay as they are with `skip_empty`.
    """
    batch, heads, d = q.shape
    kv_heads, cache_page = keys.shape[2], keys.shape[1]
    group, rows = heads // kv_heads, batch * kv_heads
    num_pages = block_table.shape[1] * (cache_page // page_size)
    if num_pages > MAX_PAGES:
        raise ValueError(f"{num_pages} pages a sequence; a Quest step ranks at most {MAX_PAGES}")
    width = min(max_budget // page_size + 1, num_pages)
    parts = max(1, min(shape.programs // rows, -(-width * page_size // shape.tile), 64))
    floats: dict[str, Any] = dict(dtype=torch.float32, device=q.device)
    scores = torch.empty(batch, kv_heads, num_pages, **floats)
    table = torch.empty(rows, width, dtype=torch.int32, device=q.device)
    partial, norms = torch.empty(rows, parts, group, d, **floats), torch.empty(rows, parts, group, **floats)
    launch_bounds(
        q, store, block_table, seq_lens, scores, page_size=page_size, cache_page=cache_page, share=True,
        new_keys=new_keys,
    )  # fmt: skip
    _rank_and_attend[(parts, rows)](
        q, keys, values, out, block_table, seq_lens, budgets, scores, table, partial, norms,
        shared_counters(rows, q.device), q.stride(0), q.stride(1), out.stride(0), out.stride(1),
        keys.stride(0), keys.stride(1), keys.stride(2), block_table.stride(0), num_pages, width, scale * LOG2E,
        D=d, KV_HEADS=kv_heads, GROUP=group, GROUP_PAD=max(16, triton.next_power_of_2(group)), PAGE=page_size,
        CACHE_PAGE=cache_page, PAGES=triton.next_power_of_2(max(num_pages, 2)), BLOCK=shape.tile, GRAIN=GRAIN,
        SKIP_EMPTY=skip_empty, num_warps=shape.warps, num_stages=shape.stages,
        **merge_options(parts, shape.warps), **launch_options(),
    )  # fmt: skip
    return out
