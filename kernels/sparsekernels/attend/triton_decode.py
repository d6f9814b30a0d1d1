# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
"""Decode over listed cache slots: keys split over programs, whose parts a second launch merges.

The merge is one program for each query head, so it is short however many splits there are, and two runs give the same
bits. Splits depend on shapes alone, so the launches can be captured in a CUDA graph.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsekernels.index.addresses import load_group
from sparsekernels.index.launch import CHANGING, launch_options, wait_and_release

LOG2E = 1.4426950408889634


@dataclass(frozen=True, slots=True)
class DecodeShape:
    """How a launch of decode attention is cut."""

    tile: int
    """Tokens that a program reads at once."""
    warps: int
    stages: int
    """Loads in flight."""
    programs: int
    """Programs that a launch should have, where there is work for so many."""


FEW_LISTS_OF_PAGES = DecodeShape(tile=32, warps=4, stages=2, programs=1056)
ONE_WARP = DecodeShape(tile=32, warps=1, stages=3, programs=1056)
"""A warp alone waits for no other, and many such programs keep many loads in flight; its first result comes later."""
WIDE_HEADS = DecodeShape(tile=32, warps=4, stages=3, programs=528)
"""Of more than 128: a warp alone has not the registers for them."""
LISTS_ARE_MANY_FROM = 96
"""(Request, list) pairs from which ONE_WARP is quicker over pages too (measured, as the shapes are)."""
MOST_SPLITS = 64


@dataclass(frozen=True, slots=True)
class Scratch:
    """Memory of one decode call; reusable by calls of the same shapes that do not overlap in time."""

    partial: Tensor
    """float32 [rows, group, splits, D]."""
    norms: Tensor
    """float32 [rows, group, splits]."""


def shape_for(rows: int, page_size: int, head_size: int) -> DecodeShape:
    """The shape for `rows` lists of pages."""
    if page_size > 1 and rows < LISTS_ARE_MANY_FROM:
        return FEW_LISTS_OF_PAGES
    return ONE_WARP if head_size <= 128 else WIDE_HEADS


def num_splits(rows: int, max_tokens: int, page_size: int, head_size: int) -> int:
    """Splits for `rows` lists of at most `max_tokens`: enough programs to fill a GPU."""
    shape = shape_for(rows, page_size, head_size)
    return max(1, min(shape.programs // rows, -(-max_tokens // shape.tile), MOST_SPLITS))


def new_scratch(rows: int, splits: int, group: int, head_size: int, device: torch.device) -> Scratch:
    """Scratch for lists of `rows` = B · list heads, each read by `group` query heads."""
    return Scratch(
        torch.empty(rows, group, splits, head_size, dtype=torch.float32, device=device),
        torch.empty(rows, group, splits, dtype=torch.float32, device=device),
    )


@triton.jit
def split_range(total, split, num_splits, BLOCK: tl.constexpr):
    """Tokens [begin, stop) of a split: whole blocks, so that no program reads twice for a few tokens."""
    share = tl.cdiv(tl.cdiv(total, num_splits), BLOCK) * BLOCK
    return split * share, tl.minimum(split * share + share, total)


@triton.jit
def attend_range(
    high, norm, acc, query, k, v, line, begin, stop, head_base, stride_kp, stride_kt, scale_log2,
    D: tl.constexpr, PAGE: tl.constexpr, CACHE_PAGE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Take a list's tokens [begin, stop) into a group's highest score, norm and weighted values."""
    d = tl.arange(0, D)
    RATIO: tl.constexpr = CACHE_PAGE // PAGE
    for n in range(begin, stop, BLOCK):
        t = n + tl.arange(0, BLOCK)
        there = t < stop
        entry = tl.load(line + t // PAGE, mask=there, other=0)
        page, inside = entry // RATIO, (entry % RATIO) * PAGE + t % PAGE
        where = page.to(tl.int64) * stride_kp + inside.to(tl.int64) * stride_kt + head_base
        key = tl.load(k + where[None, :] + d[:, None], mask=there[None, :], other=0.0)
        value = tl.load(v + where[:, None] + d[None, :], mask=there[:, None], other=0.0)
        scores = tl.dot(query, key, input_precision="ieee") * scale_log2
        scores = tl.where(there[None, :], scores, float("-inf"))
        new = tl.maximum(high, tl.max(scores, 1))
        weight = tl.exp2(scores - new[:, None])
        fade = tl.exp2(high - new)
        acc = acc * fade[:, None] + tl.dot(weight.to(value.dtype), value, input_precision="ieee")
        norm = norm * fade + tl.sum(weight, 1)
        high = new
    return high, norm, acc


@triton.jit
def store_part(
    high, norm, acc, out, stride_oh, partial, norms, row, split, num_splits, there_is,
    D: tl.constexpr, GROUP: tl.constexpr, GROUP_PAD: tl.constexpr, SPLIT: tl.constexpr, SKIP_EMPTY: tl.constexpr,
):  # fmt: skip
    """Leave a part to the merge or, when there is one split alone (not SPLIT), write the row's result.

    out: where the row's first query head goes; there_is: the row has tokens.
    """
    d, g = tl.arange(0, D), tl.arange(0, GROUP_PAD)
    result = acc / tl.where(norm > 0, norm, 1.0)[:, None]
    if SPLIT:
        own = (row.to(tl.int64) * GROUP + g) * num_splits + split
        tl.store(norms + own, tl.where(norm > 0, high + tl.log2(norm), float("-inf")), mask=g < GROUP)
        tl.store(partial + own[:, None] * D + d[None, :], result, mask=g[:, None] < GROUP)
    else:
        if (not SKIP_EMPTY) | there_is:
            target = out + g[:, None] * stride_oh + d[None, :]
            tl.store(target, result.to(out.dtype.element_ty), mask=g[:, None] < GROUP)


@triton.jit(do_not_specialize=CHANGING)
def _merge(
    partial, norms, out, stride_ob, stride_oh, num_splits,
    D: tl.constexpr, HEADS: tl.constexpr, SPLITS: tl.constexpr, SKIP_EMPTY: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    wait_and_release(EARLY)
    head = tl.program_id(0).to(tl.int64)
    s, d = tl.arange(0, SPLITS), tl.arange(0, D)
    own = head * num_splits + s
    norm = tl.load(norms + own, mask=s < num_splits, other=float("-inf"))
    part = tl.load(partial + own[:, None] * D + d[None, :], mask=s[:, None] < num_splits, other=0.0)
    top = tl.max(norm, 0)
    weight = tl.exp2(norm - tl.where(top == float("-inf"), 0.0, top))
    total = tl.sum(weight, 0)
    result = tl.sum(part * weight[:, None], 0) / tl.where(total > 0, total, 1.0)
    if (total != 0) | (not SKIP_EMPTY):
        target = out + head // HEADS * stride_ob + head % HEADS * stride_oh + d
        tl.store(target, result.to(out.dtype.element_ty))


def merge(scratch: Scratch, out: Tensor, skip_empty: bool) -> None:
    """Join the splits' parts into out [B, Hq, D]; nothing to do where a launch had one split."""
    batch, heads, d = out.shape
    splits = scratch.norms.shape[2]
    if splits > 1:
        _merge[(batch * heads,)](
            scratch.partial, scratch.norms, out, out.stride(0), out.stride(1), splits,
            D=d, HEADS=heads, SPLITS=triton.next_power_of_2(splits), SKIP_EMPTY=skip_empty, num_warps=2,
            **launch_options(),
        )  # fmt: skip


@triton.jit(do_not_specialize=CHANGING)
def _decode_lists(
    q, k, v, out, table, counts, widths, block_table, seq_lens, prompt_lens, partial, norms,
    stride_qb, stride_qh, stride_ob, stride_oh, stride_kp, stride_kt, stride_kh, stride_bt,
    width, num_splits, scale_log2,
    D: tl.constexpr, LIST_HEADS: tl.constexpr, PER_KV: tl.constexpr, GROUP: tl.constexpr, GROUP_PAD: tl.constexpr,
    PAGE: tl.constexpr, CACHE_PAGE: tl.constexpr, TAIL: tl.constexpr, BLOCK: tl.constexpr, SPLIT: tl.constexpr,
    ADDRESSES: tl.constexpr, SKIP_EMPTY: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    wait_and_release(EARLY)
    split, row = tl.program_id(0), tl.program_id(1)
    batch, list_head = row // LIST_HEADS, row % LIST_HEADS
    if ADDRESSES:
        there_is = tl.load(table + batch) != 0
        line = tl.load(table + batch).to(tl.pointer_type(tl.int32)) + list_head * tl.load(widths + batch)
        listed = tl.load(tl.load(counts + batch).to(tl.pointer_type(tl.int32)) + list_head, mask=there_is, other=0)
    else:
        line = table + row.to(tl.int64) * width
        listed = tl.load(counts + row)
    total = listed
    prompt = 0
    if TAIL:
        prompt = tl.load(prompt_lens + batch)
        total += tl.load(seq_lens + batch) - prompt
    begin, stop = split_range(total, split, num_splits, BLOCK)
    query = load_group(q, batch, list_head, stride_qb, stride_qh, D, GROUP, GROUP_PAD)
    high = tl.full([GROUP_PAD], float("-inf"), tl.float32)
    norm = tl.zeros([GROUP_PAD], tl.float32)
    acc = tl.zeros([GROUP_PAD, D], tl.float32)
    head_base = (list_head // PER_KV).to(tl.int64) * stride_kh
    high, norm, acc = attend_range(
        high, norm, acc, query, k, v, line, begin, tl.minimum(stop, listed), head_base, stride_kp, stride_kt,
        scale_log2, D, PAGE, CACHE_PAGE, BLOCK,
    )  # fmt: skip
    if TAIL:
        # What was generated since is one more list: the block table's pages from the prompt's end on.
        late = prompt - listed
        high, norm, acc = attend_range(
            high, norm, acc, query, k, v, block_table + batch.to(tl.int64) * stride_bt,
            tl.maximum(begin, listed) + late, stop + late, head_base, stride_kp, stride_kt, scale_log2,
            D, CACHE_PAGE, CACHE_PAGE, BLOCK,
        )  # fmt: skip
    first_head = out + batch.to(tl.int64) * stride_ob + list_head * GROUP * stride_oh
    store_part(
        high, norm, acc, first_head, stride_oh, partial, norms, row, split, num_splits, total > 0,
        D, GROUP, GROUP_PAD, SPLIT, SKIP_EMPTY,
    )  # fmt: skip


def decode_lists(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    table: Tensor,
    counts: Tensor,
    *,
    page_size: int,
    max_tokens: int,
    scale: float,
    out: Tensor,
    generated: tuple[Tensor, Tensor, Tensor] | None = None,
    widths: Tensor | None = None,
    skip_empty: bool = False,
    scratch: Scratch | None = None,
) -> Tensor:
    """q [B, Hq, D] over lists of physical sub-pages int32 [B, H, W], counts int32 [B, H] in tokens, into out.

    keys and values are cache views [pages, page, Hkv, D] of equal strides. H is Hkv or Hq. `max_tokens`, a bound known
    on the host, sets the number of splits. `generated` = (block_table, seq_lens, prompt_lens) appends the positions
    prompt_lens … seq_lens − 1 to every list. With `widths` int64 [B], table and counts are int64 [B] instead: the
    device addresses of each row's own lists int32 [Hkv, widths] and counts int32 [Hkv], zero where a row has none. Rows
    that read nothing become zero, or stay as they are with `skip_empty`.
    """
    batch, heads, d = q.shape
    list_heads = keys.shape[2] if widths is not None else table.shape[1]
    group, rows = heads // list_heads, batch * list_heads
    if scratch is None:
        scratch = new_scratch(rows, num_splits(rows, max_tokens, page_size, d), group, d, q.device)
    splits, shape = scratch.norms.shape[2], shape_for(rows, page_size, d)
    block_table, seq_lens, prompt_lens = generated or (counts, counts, counts)
    _decode_lists[(splits, rows)](
        q, keys, values, out, table, counts, counts if widths is None else widths, block_table, seq_lens, prompt_lens,
        scratch.partial, scratch.norms,
        q.stride(0), q.stride(1), out.stride(0), out.stride(1), keys.stride(0), keys.stride(1), keys.stride(2),
        block_table.stride(0), table.shape[-1], splits, scale * LOG2E,
        D=d, LIST_HEADS=list_heads, PER_KV=list_heads // keys.shape[2], GROUP=group,
        GROUP_PAD=max(16, triton.next_power_of_2(group)), PAGE=page_size, CACHE_PAGE=keys.shape[1],
        TAIL=generated is not None, BLOCK=shape.tile, SPLIT=splits > 1,
        ADDRESSES=widths is not None, SKIP_EMPTY=skip_empty, num_warps=shape.warps, num_stages=shape.stages,
        **launch_options(),
    )  # fmt: skip
    merge(scratch, out, skip_empty)
    return out
