# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
"""Quest's selection in two launches: the bounds of all pages, then each row's best pages as a list, current page last.

The definition is `sparsekernels.methods.quest`.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsekernels.index.addresses import load_group
from sparsekernels.index.launch import launch_options, wait_and_release
from sparsekernels.index.order import ordered_bits, select_top
from sparsekernels.methods.quest import PageLists

MAX_PAGES = 1 << 16
"""Most pages of a sequence that one program ranks."""
CHUNK = 64
"""Pages that a program bounds."""
KEYS_PER_WARP = 1024
"""Bounds that a warp ranks."""


@triton.jit
def _take_in(
    batch, head, store, key, slots, stride_kb, stride_kh, D: tl.constexpr, KV_HEADS: tl.constexpr, PAGE: tl.constexpr
):  # fmt: skip
    """One new key into the summary of its page, in place."""
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


@triton.jit
def _bounds(
    q, store, block_table, seq_lens, scores, key, slots, stride_qb, stride_qh, stride_bt, num_pages,
    stride_kb, stride_kh,
    D: tl.constexpr, KV_HEADS: tl.constexpr, GROUP: tl.constexpr, GROUP_PAD: tl.constexpr, SHARE: tl.constexpr,
    PAGE: tl.constexpr, RATIO: tl.constexpr, CHUNK: tl.constexpr, TAKE_IN: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    wait_and_release(EARLY)
    part, row = tl.program_id(0), tl.program_id(1)
    batch, head = row // KV_HEADS, row % KV_HEADS
    if TAKE_IN:  # noqa: SIM102 - the first question is the compiler's
        # The new key belongs to the current page, which is read in any case: no bound here needs its summary.
        if part == 0:
            _take_in(batch, head, store, key, slots, stride_kb, stride_kh, D, KV_HEADS, PAGE)
    current = (tl.load(seq_lens + batch) - 1) // PAGE
    begin = part * CHUNK
    d, g = tl.arange(0, D), tl.arange(0, GROUP_PAD)
    block_row = block_table + batch.to(tl.int64) * stride_bt
    rows: tl.constexpr = 1 if SHARE else GROUP
    line = row.to(tl.int64) * rows
    # A loop of one turn: what is loaded in loops is copied without passing through registers, and the queries, needed
    # last, are asked for last.
    for first in range(begin, tl.minimum(begin + CHUNK, current), CHUNK):
        page = first + tl.arange(0, CHUNK)
        there = page < current
        physical = (tl.load(block_row + page // RATIO, mask=there, other=0) * RATIO + page % RATIO).to(tl.int64)
        summary = store + ((physical * KV_HEADS + head) * 2)[:, None] * D + d[None, :]
        high = tl.load(summary, mask=there[:, None], other=0.0)
        low = tl.load(summary + D, mask=there[:, None], other=0.0)
        query = load_group(q, batch, head, stride_qb, stride_qh, D, GROUP, GROUP_PAD)
        above = tl.where(query > 0, query, 0.0).to(query.dtype)
        below = tl.where(query < 0, query, 0.0).to(query.dtype)
        bounds = tl.dot(high, tl.trans(above), input_precision="ieee")
        bounds = tl.dot(low, tl.trans(below), acc=bounds, input_precision="ieee")
        if SHARE:
            tl.store(scores + line * num_pages + page, tl.sum(bounds, 1), mask=there)
        else:
            target = scores + (line + g)[None, :] * num_pages + page[:, None]
            tl.store(target, bounds, mask=there[:, None] & (g[None, :] < GROUP))


@triton.jit
def _rank_pages(
    scores, block_table, seq_lens, budgets, table, counts, lengths, stride_bt, num_pages, width,
    HEADS: tl.constexpr, PAGE: tl.constexpr, RATIO: tl.constexpr, PAGES: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    line = tl.program_id(0).to(tl.int64)
    batch = line // HEADS
    seq_len = tl.load(seq_lens + batch)
    current = (seq_len - 1) // PAGE
    page = tl.arange(0, PAGES)
    valid = page < current
    block = tl.load(block_table + batch * stride_bt + page // RATIO, mask=page <= current, other=0)
    want = tl.load(budgets + batch) // PAGE
    # What is read above is older than the kernel before this one.
    wait_and_release(EARLY)
    key = ordered_bits(tl.load(scores + line * num_pages + page, mask=valid, other=0.0))
    chosen, rank = select_top(key, valid, tl.maximum(current, 0), want)
    physical = block * RATIO + page % RATIO
    tl.store(table + line * width + rank - 1, physical, mask=chosen & (rank <= width))
    count = tl.minimum(tl.minimum(want, current) + 1, seq_len)
    tl.store(table + line * width + count - 1 + page * 0, physical, mask=(page == current) & (page < seq_len))
    tl.store(counts + line, count)
    tl.store(lengths + line, tl.where(seq_len > 0, (count - 1) * PAGE + seq_len - current * PAGE, 0))


def launch_bounds(
    q: Tensor, store: Tensor, block_table: Tensor, seq_lens: Tensor, scores: Tensor, *, page_size: int,
    cache_page: int, share: bool, new_keys: tuple[Tensor, Tensor] | None = None,
) -> None:  # fmt: skip
    """Bounds of all pages before the current one into scores float32 [B, H, pages], H = Hkv when shared, else Hq."""
    batch, heads, d = q.shape
    kv_heads, num_pages = store.shape[1], scores.shape[2]
    group = heads // kv_heads
    key, slots = new_keys or (q, seq_lens)
    _bounds[(triton.cdiv(num_pages, CHUNK), batch * kv_heads)](
        q, store, block_table, seq_lens, scores, key, slots, q.stride(0), q.stride(1), block_table.stride(0), num_pages,
        key.stride(0), key.stride(1),
        D=d, KV_HEADS=kv_heads, GROUP=group, GROUP_PAD=max(16, triton.next_power_of_2(group)), SHARE=share,
        PAGE=page_size, RATIO=cache_page // page_size, CHUNK=CHUNK, TAKE_IN=new_keys is not None,
        num_warps=2, num_stages=2, **launch_options(),
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
    new_keys: tuple[Tensor, Tensor] | None = None,
) -> PageLists:
    """The fused twin of `methods.quest.select`; see there. Two launches, no host read: a CUDA graph can capture it.

    `new_keys` = (key [B, Hkv, D], slots int [B]) are taken into the summaries by the way, as `update_summaries` would.
    """
    batch, heads, _ = q.shape
    kv_heads, ratio = store.shape[1], cache_page // page_size
    num_pages = block_table.shape[1] * ratio
    if num_pages > MAX_PAGES:
        raise ValueError(f"{num_pages} pages a sequence; the fused selection ranks at most {MAX_PAGES}")
    list_heads = kv_heads if share_pages else heads
    width = min(max_budget // page_size + 1, num_pages)
    scores = torch.empty(batch, list_heads, num_pages, dtype=torch.float32, device=q.device)
    ints: dict[str, Any] = dict(dtype=torch.int32, device=q.device)
    table = torch.empty(batch, list_heads, width, **ints)
    counts, lengths = torch.empty(batch, list_heads, **ints), torch.empty(batch, list_heads, **ints)
    launch_bounds(
        q, store, block_table, seq_lens, scores, page_size=page_size, cache_page=cache_page, share=share_pages,
        new_keys=new_keys,
    )  # fmt: skip
    pages = triton.next_power_of_2(max(num_pages, 2))
    _rank_pages[(batch * list_heads,)](
        scores, block_table, seq_lens, budgets, table, counts, lengths, block_table.stride(0), num_pages, width,
        HEADS=list_heads, PAGE=page_size, RATIO=ratio, PAGES=pages,
        num_warps=min(16, max(4, pages // KEYS_PER_WARP)), **launch_options(),
    )  # fmt: skip
    return PageLists(table, counts, lengths, page_size)


@triton.jit
def _build(
    store, keys, block_table, rows, lengths, stride_kp, stride_kt, stride_kh, stride_bt,
    D: tl.constexpr, KV_HEADS: tl.constexpr, PAGE: tl.constexpr, PAD: tl.constexpr, RATIO: tl.constexpr,
):  # fmt: skip
    page, line, head = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length = tl.load(lengths + line)
    if page * PAGE < length:
        block = tl.load(block_table + tl.load(rows + line).to(tl.int64) * stride_bt + page // RATIO).to(tl.int64)
        t, d = tl.arange(0, PAD), tl.arange(0, D)
        there = (t < PAGE) & (page * PAGE + t < length)
        inside = (page % RATIO) * PAGE + t
        source = keys + block * stride_kp + inside[:, None] * stride_kt + head.to(tl.int64) * stride_kh + d[None, :]
        key = tl.load(source, mask=there[:, None], other=0.0)
        where = store + ((block * RATIO + page % RATIO) * KV_HEADS + head) * 2 * D + d
        tl.store(where, tl.max(tl.where(there[:, None], key, float("-inf")), 0))
        tl.store(where + D, tl.min(tl.where(there[:, None], key, float("inf")), 0))


def build_summaries(
    store: Tensor, keys: Tensor, block_table: Tensor, rows: Tensor, lengths: Tensor, *, page_size: int, max_length: int
) -> None:
    """`methods.quest.build_summaries` for several sequences in one launch: int32 rows of the table and lengths [n]."""
    _, cache_page, kv_heads, d = keys.shape
    _build[(triton.cdiv(max_length, page_size), len(rows), kv_heads)](
        store, keys, block_table, rows, lengths, keys.stride(0), keys.stride(1), keys.stride(2), block_table.stride(0),
        D=d, KV_HEADS=kv_heads, PAGE=page_size, PAD=triton.next_power_of_2(page_size), RATIO=cache_page // page_size,
        num_warps=1,
    )  # fmt: skip


@triton.jit
def _update(
    store, key, slots, stride_kb, stride_kh, D: tl.constexpr, KV_HEADS: tl.constexpr, PAGE: tl.constexpr
):  # fmt: skip
    _take_in(tl.program_id(0), tl.program_id(1), store, key, slots, stride_kb, stride_kh, D, KV_HEADS, PAGE)


def update_summaries(store: Tensor, key: Tensor, slots: Tensor, page_size: int) -> None:
    """The fused twin of `methods.quest.update_summaries`; see there."""
    batch, kv_heads, d = key.shape
    _update[(batch, kv_heads)](
        store, key, slots, key.stride(0), key.stride(1), D=d, KV_HEADS=kv_heads, PAGE=page_size, num_warps=1
    )
