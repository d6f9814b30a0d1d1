"""Quest's selection in one launch: page bounds, the best pages of each row, their list, current page last.

Programs score a chunk of pages each; the one that arrives last at a row (an integer counter, reset for the next step)
ranks the row, so that no second launch is needed. The definition is `sparsekernels.methods.quest`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsekernels.index.order import ordered_bits, select_top
from sparsekernels.methods.quest import PageLists

MAX_PAGES = 1 << 16
"""Most pages of a sequence that one program ranks."""


@triton.jit
def _rank_row(
    scores, table, counts, lengths, block_row, current, seq_len, want, width, RATIO: tl.constexpr,
    PAGE: tl.constexpr, PAGES: tl.constexpr,
):  # fmt: skip
    page = tl.arange(0, PAGES)
    valid = page < current
    key = ordered_bits(tl.load(scores + page, mask=valid, other=0.0, cache_modifier=".cg"))
    chosen = select_top(key, valid, want) | (page == current)
    rank = tl.cumsum(chosen.to(tl.int32), 0)
    physical = tl.load(block_row + page // RATIO, mask=chosen, other=0) * RATIO + page % RATIO
    tl.store(table + rank - 1, physical, mask=chosen & (rank <= width))
    count = tl.sum(chosen.to(tl.int32), 0)
    tl.store(counts, count)
    tl.store(lengths, (count - 1) * PAGE + seq_len - current * PAGE)


@triton.jit
def _bounds_and_lists(
    q, store, block_table, seq_lens, budgets, scores, arrivals, table, counts, lengths,
    stride_qb, stride_qh, stride_bt, num_pages, width,
    D: tl.constexpr, KV_HEADS: tl.constexpr, GROUP: tl.constexpr, GROUP_PAD: tl.constexpr, SHARE: tl.constexpr,
    PAGE: tl.constexpr, RATIO: tl.constexpr, CHUNK: tl.constexpr, PAGES: tl.constexpr,
):  # fmt: skip
    chunk, row = tl.program_id(0), tl.program_id(1)
    batch, head = row // KV_HEADS, row % KV_HEADS
    seq_len = tl.load(seq_lens + batch)
    current = (seq_len - 1) // PAGE
    num_chunks = tl.maximum(tl.cdiv(current, CHUNK), 1)
    rows: tl.constexpr = 1 if SHARE else GROUP
    lists = row.to(tl.int64) * rows
    block_row = block_table + batch.to(tl.int64) * stride_bt
    if seq_len <= 0:
        if chunk == 0:
            for g in range(0, rows):
                tl.store(counts + lists + g, 0)
                tl.store(lengths + lists + g, 0)
    elif chunk < num_chunks:
        page = chunk * CHUNK + tl.arange(0, CHUNK)
        there = page < current
        d, g = tl.arange(0, D), tl.arange(0, GROUP_PAD)
        physical = (tl.load(block_row + page // RATIO, mask=there, other=0) * RATIO + page % RATIO).to(tl.int64)
        summary = store + ((physical * KV_HEADS + head) * 2)[None, :] * D + d[:, None]
        high = tl.load(summary, mask=there[None, :], other=0.0)
        low = tl.load(summary + D, mask=there[None, :], other=0.0)
        query = tl.load(
            q + batch.to(tl.int64) * stride_qb + (head * GROUP + g)[:, None] * stride_qh + d[None, :],
            mask=g[:, None] < GROUP, other=0.0,
        )  # fmt: skip
        zero = tl.zeros([GROUP_PAD, D], query.dtype)
        bounds = tl.dot(tl.maximum(query, zero), high, input_precision="ieee")
        bounds = tl.dot(tl.minimum(query, zero), low, acc=bounds, input_precision="ieee")
        if SHARE:
            tl.store(scores + lists * num_pages + page, tl.sum(bounds, 0), mask=there)
        else:
            target = scores + (lists + g)[:, None] * num_pages + page[None, :]
            tl.store(target, bounds, mask=there[None, :] & (g[:, None] < GROUP))
        tl.debug_barrier()
        arrived = tl.atomic_add(arrivals + row, 1, sem="acq_rel", scope="gpu")
        if arrived == num_chunks - 1:
            tl.debug_barrier()
            tl.store(arrivals + row, 0)
            want = tl.load(budgets + batch) // PAGE
            for g in range(0, rows):
                line = lists + g
                _rank_row(
                    scores + line * num_pages, table + line * width, counts + line, lengths + line, block_row,
                    current, seq_len, want, width, RATIO, PAGE, PAGES,
                )  # fmt: skip


def select(
    q: Tensor,
    store: Tensor,
    block_table: Tensor,
    seq_lens: Tensor,
    budgets: Tensor,
    *,
    page_size: int,
    cache_page: int,
    max_budget: int,
    share_pages: bool = True,
    arrivals: Tensor | None = None,
) -> PageLists:
    """The fused twin of `methods.quest.select`; see there.

    `arrivals` is int32 zeros [B · Hkv] that the call leaves zero; give one when capturing a CUDA graph.
    """
    batch, heads, d = q.shape
    kv_heads, ratio = store.shape[1], cache_page // page_size
    num_pages = block_table.shape[1] * ratio
    if num_pages > MAX_PAGES:
        raise ValueError(f"{num_pages} pages a sequence; the fused selection ranks at most {MAX_PAGES}")
    group = heads // kv_heads
    list_heads = kv_heads if share_pages else heads
    width = min(max_budget // page_size + 1, num_pages)
    ints = dict(dtype=torch.int32, device=q.device)
    if arrivals is None:
        arrivals = torch.zeros(batch * kv_heads, **ints)
    scores = torch.empty(batch, list_heads, num_pages, dtype=torch.float32, device=q.device)
    table = torch.empty(batch, list_heads, width, **ints)
    counts, lengths = torch.empty(batch, list_heads, **ints), torch.empty(batch, list_heads, **ints)
    chunk = 64
    pages = triton.next_power_of_2(max(num_pages, 2))
    _bounds_and_lists[(triton.cdiv(num_pages, chunk), batch * kv_heads)](
        q, store, block_table, seq_lens, budgets, scores, arrivals, table, counts, lengths,
        q.stride(0), q.stride(1), block_table.stride(0), num_pages, width,
        D=d, KV_HEADS=kv_heads, GROUP=group, GROUP_PAD=max(16, triton.next_power_of_2(group)), SHARE=share_pages,
        PAGE=page_size, RATIO=ratio, CHUNK=chunk, PAGES=pages, num_warps=4 if pages <= 8192 else 16,
    )  # fmt: skip
    return PageLists(table, counts, lengths, page_size)


@triton.jit
def _update(
    store, key, slots, stride_kb, stride_kh, D: tl.constexpr, KV_HEADS: tl.constexpr, PAGE: tl.constexpr
):  # fmt: skip
    batch, head = tl.program_id(0), tl.program_id(1)
    slot = tl.load(slots + batch).to(tl.int64)
    if slot >= 0:
        d = tl.arange(0, D)
        new = tl.load(key + batch.to(tl.int64) * stride_kb + head * stride_kh + d)
        where = store + ((slot // PAGE) * KV_HEADS + head) * 2 * D + d
        if slot % PAGE == 0:
            tl.store(where, new)
            tl.store(where + D, new)
        else:
            tl.store(where, tl.maximum(tl.load(where), new))
            tl.store(where + D, tl.minimum(tl.load(where + D), new))


def update_summaries(store: Tensor, key: Tensor, slots: Tensor, page_size: int) -> None:
    """The fused twin of `methods.quest.update_summaries`; see there."""
    batch, kv_heads, d = key.shape
    _update[(batch, kv_heads)](
        store, key, slots, key.stride(0), key.stride(1), D=d, KV_HEADS=kv_heads, PAGE=page_size, num_warps=1
    )
