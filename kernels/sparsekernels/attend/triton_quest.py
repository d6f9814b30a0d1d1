# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
"""A whole Quest step for all rows in one or two launches: bounds, ranking, attention over the best pages, merge.

Each (request, list head) is a row, cut into parts. A part bounds its share of the pages; when all parts of its row
have, every part ranks all of the row's pages by itself (they lie in the L2 cache) and attends to its share of the best
ones; the last part to arrive merges. Parts of a row wait for each other: in one launch by a counter (`SYNC`), else by
the end of the first launch. Parts of a row start together and rows start in order, so the oldest row always advances.
The definition is `sparsekernels.methods.quest`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsekernels.attend.triton_decode import LOG2E, load_group, split_range, store_merged
from sparsekernels.attend.triton_decode import attend_range as attend_tokens
from sparsekernels.index.launch import launch_options, wait_and_release
from sparsekernels.index.order import ordered_bits, select_top

MAX_PAGES = 1 << 13
"""Most pages of a sequence that every part ranks by itself."""


@dataclass(frozen=True, slots=True)
class StepShape:
    """How a Quest step is cut."""

    one_launch: bool
    programs: int = 256
    chunk: int = 64
    """Pages that a part bounds at once."""
    tile: int = 64
    """Tokens that a part attends to at once."""
    bound_warps: int = 4
    warps: int = 8
    stages: int = 3


@triton.jit
def _bound_pages(
    q, store, block_row, scores, batch, head, begin, stop, num_pages, line, stride_qb, stride_qh,
    D: tl.constexpr, KV_HEADS: tl.constexpr, GROUP: tl.constexpr, GROUP_PAD: tl.constexpr, SHARE: tl.constexpr,
    RATIO: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Bounds of the pages [begin, stop) of one KV head, to scores [rows, num_pages] from row `line` on."""
    d, g = tl.arange(0, D), tl.arange(0, GROUP_PAD)
    source = q + batch.to(tl.int64) * stride_qb + (head * GROUP + g)[None, :] * stride_qh + d[:, None]
    query = tl.load(source, mask=g[None, :] < GROUP, other=0.0)
    above = tl.where(query > 0, query, 0.0).to(query.dtype)
    below = tl.where(query < 0, query, 0.0).to(query.dtype)
    for first in range(begin, stop, CHUNK):
        page = first + tl.arange(0, CHUNK)
        there = page < stop
        physical = (tl.load(block_row + page // RATIO, mask=there, other=0) * RATIO + page % RATIO).to(tl.int64)
        summary = store + ((physical * KV_HEADS + head) * 2)[:, None] * D + d[None, :]
        high = tl.load(summary, mask=there[:, None], other=0.0)
        low = tl.load(summary + D, mask=there[:, None], other=0.0)
        bounds = tl.dot(high, above, input_precision="ieee")
        bounds = tl.dot(low, below, acc=bounds, input_precision="ieee")
        if SHARE:
            tl.store(scores + line * num_pages + page, tl.sum(bounds, 1), mask=there)
        else:
            target = scores + (line + g)[None, :] * num_pages + page[:, None]
            tl.store(target, bounds, mask=there[:, None] & (g[None, :] < GROUP))


@triton.jit
def _quest_step(
    q, store, k, v, out, block_table, seq_lens, budgets, scores, table, partial, norms, ready, arrivals,
    stride_qb, stride_qh, stride_ob, stride_oh, stride_kp, stride_kt, stride_kh, stride_bt,
    num_pages, width, scale_log2,
    D: tl.constexpr, KV_HEADS: tl.constexpr, GROUP: tl.constexpr, GROUP_PAD: tl.constexpr, PAGE: tl.constexpr,
    CACHE_PAGE: tl.constexpr, PAGES: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr, GRAIN: tl.constexpr,
    SPLITS: tl.constexpr, SKIP_EMPTY: tl.constexpr, BOUND: tl.constexpr, ATTEND: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    RATIO: tl.constexpr = CACHE_PAGE // PAGE
    part, row, parts = tl.program_id(0), tl.program_id(1), tl.num_programs(0)
    batch, head = row // KV_HEADS, row % KV_HEADS
    block_row = block_table + batch.to(tl.int64) * stride_bt
    if BOUND:
        wait_and_release(EARLY)
    seq_len = tl.load(seq_lens + batch)
    want = tl.load(budgets + batch) // PAGE
    current = (seq_len - 1) // PAGE
    d, g = tl.arange(0, D), tl.arange(0, GROUP_PAD)
    if BOUND:
        share = tl.cdiv(tl.cdiv(current, parts), 16) * 16
        _bound_pages(
            q, store, block_row, scores, batch, head, part * share, tl.minimum(part * share + share, current),
            num_pages, row.to(tl.int64), stride_qb, stride_qh, D, KV_HEADS, GROUP, GROUP_PAD, True, RATIO, CHUNK,
        )  # fmt: skip
        if not ATTEND:
            tl.store(arrivals + row, 0)
    if ATTEND:
        query = load_group(q, batch, head, stride_qb, stride_qh, D, GROUP, GROUP_PAD)
        page = tl.arange(0, PAGES)
        valid = page < current
        block = tl.load(block_row + page // RATIO, mask=(page <= current) & (page < num_pages), other=0)
        if not BOUND:
            # What is read above is older than the kernel before this one.
            wait_and_release(EARLY)
        else:
            tl.debug_barrier()
            seen = tl.atomic_add(ready + row, 1, sem="acq_rel", scope="gpu") + 1
            tries = 0
            while (seen < parts) & (tries < 100000):
                seen = tl.atomic_add(ready + row, 0, sem="acquire", scope="gpu")
                tries += 1
            tl.debug_barrier()
        raw = tl.load(scores + row.to(tl.int64) * num_pages + page, mask=valid, other=0.0, cache_modifier=".cg")
        chosen, rank = select_top(ordered_bits(raw), valid, want)
        count = tl.minimum(tl.minimum(want, current) + 1, seq_len)
        total = tl.where(seq_len > 0, (count - 1) * PAGE + seq_len - current * PAGE, 0)
        begin, stop, used = split_range(total, part, parts, BLOCK, GRAIN)
        line = table + row.to(tl.int64) * width
        physical = block * RATIO + page % RATIO
        rank = tl.where(page == current, count, rank) - 1
        own = (chosen | (page == current)) & (rank >= begin // PAGE) & (rank * PAGE < stop)
        tl.store(line + rank, physical, mask=own)
        tl.debug_barrier()
        high, norm, acc = attend_tokens(
            query, k, v, line, block_row, begin, stop, total, 0, head.to(tl.int64) * stride_kh, stride_kp, stride_kt,
            scale_log2, D, GROUP_PAD, PAGE, CACHE_PAGE, False, BLOCK,
        )  # fmt: skip
        target = out + batch.to(tl.int64) * stride_ob + (head * GROUP + g)[:, None] * stride_oh + d[None, :]
        there_is = (total > 0) | (not SKIP_EMPTY)
        store_merged(
            high, norm, acc, target, partial, norms, arrivals, row, part, parts, used, there_is,
            D, GROUP, GROUP_PAD, SPLITS,
        )  # fmt: skip
        if BOUND:
            # The last part to pass its wait leaves the counter zero for the next call.
            if tl.atomic_add(ready + row, 1, sem="relaxed", scope="gpu") == 2 * parts - 1:
                tl.store(ready + row, 0)


def step_parts(rows: int, num_pages: int, shape: StepShape) -> int:
    """Parts of each of `rows` rows."""
    return max(1, min(shape.programs // rows, -(-num_pages // 16), 64)) if rows < shape.programs else 1


def quest_step(
    q: Tensor, store: Tensor, keys: Tensor, values: Tensor, block_table: Tensor, seq_lens: Tensor, budgets: Tensor, *,
    page_size: int, max_budget: int, scale: float, out: Tensor, skip_empty: bool = False, shape: StepShape,
    counters: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Select pages shared by each KV head's query heads and attend to them: q [B, Hq, D] into out [B, Hq, D].

    The rest as in `index.quest.select`. counters: int32 [2, ≥ B·Hkv], zero between calls.
    """
    batch, heads, d = q.shape
    kv_heads, cache_page = keys.shape[2], keys.shape[1]
    ratio, group, rows = cache_page // page_size, heads // kv_heads, batch * kv_heads
    num_pages = block_table.shape[1] * ratio
    if num_pages > MAX_PAGES:
        raise ValueError(f"{num_pages} pages a sequence; a Quest step ranks at most {MAX_PAGES}")
    width = min(max_budget // page_size + 1, num_pages)
    parts = step_parts(rows, num_pages, shape)
    floats: dict[str, Any] = dict(dtype=torch.float32, device=q.device)
    scores = torch.empty(rows, num_pages, **floats)
    table = torch.empty(rows, width + 1, dtype=torch.int32, device=q.device)
    partial, norms = torch.empty(rows, parts, group, d, **floats), torch.empty(rows, parts, group, **floats)
    if counters is None:
        counters = torch.zeros(2, rows, dtype=torch.int32, device=q.device)
    options: dict[str, Any] = dict(
        D=d, KV_HEADS=kv_heads, GROUP=group, GROUP_PAD=max(16, triton.next_power_of_2(group)), PAGE=page_size,
        CACHE_PAGE=cache_page, PAGES=triton.next_power_of_2(max(num_pages, 2)), CHUNK=shape.chunk, BLOCK=shape.tile,
        GRAIN=16, SPLITS=triton.next_power_of_2(parts), SKIP_EMPTY=skip_empty, num_stages=shape.stages,
        **launch_options(),
    )  # fmt: skip
    phases = [(True, True, shape.warps)]
    if not shape.one_launch:
        phases = [(True, False, shape.bound_warps), (False, True, shape.warps)]
    for bound, attend, warps in phases:
        _quest_step[(parts, rows)](
            q, store, keys, values, out, block_table, seq_lens, budgets, scores, table, partial, norms,
            counters[0], counters[1], q.stride(0), q.stride(1), out.stride(0), out.stride(1),
            keys.stride(0), keys.stride(1), keys.stride(2), block_table.stride(0), num_pages, table.shape[1],
            scale * LOG2E, BOUND=bound, ATTEND=attend, num_warps=warps, **options,
        )  # fmt: skip
    return out
