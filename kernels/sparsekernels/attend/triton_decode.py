# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
"""Decode over listed cache slots in one launch: keys split over programs, the last to arrive merges them.

The merge runs over the splits in order, so two runs give the same bits. Splits depend on shapes alone, so the launch
can be captured in a CUDA graph.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsekernels.index.launch import launch_options, wait_and_release

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
    fewest: int = 4
    """Splits of a list in any case, where it is long enough."""


SHAPE = DecodeShape(tile=128, warps=4, stages=2, programs=256)
FEWEST_COUNTERS = 1 << 14
GRAIN = 16
"""Splits end at multiples of so many tokens."""


@dataclass(frozen=True, slots=True)
class Scratch:
    """Memory of one decode call; reusable by calls of the same shapes that do not overlap in time."""

    partial: Tensor
    """float32 [rows, splits, group, D]."""
    norms: Tensor
    """float32 [rows, splits, group]."""
    arrivals: Tensor
    """int32 [rows], zero between calls."""


def num_splits(rows: int, max_tokens: int, shape: DecodeShape = SHAPE) -> int:
    """Splits for `rows` lists of at most `max_tokens`: enough programs for an H200 without a long merge (measured)."""
    return max(1, min(max(shape.fewest, shape.programs // rows), -(-max_tokens // shape.tile), 64))


def new_scratch(
    rows: int, splits: int, group: int, head_size: int, device: torch.device, arrivals: Tensor | None = None
) -> Scratch:
    """Scratch for lists of `rows` = B · list heads, each read by `group` query heads."""
    return Scratch(
        torch.empty(rows, splits, group, head_size, dtype=torch.float32, device=device),
        torch.empty(rows, splits, group, dtype=torch.float32, device=device),
        torch.zeros(rows, dtype=torch.int32, device=device) if arrivals is None else arrivals,
    )


_ZEROS: dict[tuple[torch.device, int | None], list[Tensor]] = {}
"""Counters by device and stream (None: graphs), never freed, since a graph may name any of them."""


def shared_counters(rows: int, device: torch.device) -> Tensor:
    """Counters int32 [≥ rows] that are zero between launches, without a launch to make them so.

    Calls on one stream share them, and so do all CUDA graphs of a device: two graphs must not replay at the same time.
    Graphs find the counters that an earlier call outside of a capture has made; without one they zero their own.
    """
    if device.type != "cuda":
        return torch.zeros(rows, dtype=torch.int32, device=device)
    capturing = torch.cuda.is_current_stream_capturing()
    stream = None if capturing else torch.cuda.current_stream(device).cuda_stream
    for key in {(device, stream)} if capturing else {(device, stream), (device, None)}:
        made = _ZEROS.setdefault(key, [])
        if not made or len(made[-1]) < rows:
            fresh = torch.zeros(max(rows, FEWEST_COUNTERS), dtype=torch.int32, device=device)
            if capturing:
                return fresh
            made.append(fresh)
    return _ZEROS[device, stream][-1]


@triton.jit
def split_range(total, split, num_splits, BLOCK: tl.constexpr, GRAIN: tl.constexpr):
    """Tokens [begin, stop) of a split, and how many splits have any (at least one)."""
    share = tl.cdiv(tl.cdiv(total, num_splits), GRAIN) * GRAIN
    share = tl.maximum(share, BLOCK)
    return split * share, tl.minimum(split * share + share, total), tl.maximum(tl.cdiv(total, share), 1)


@triton.jit
def load_group(q, batch, list_head, stride_qb, stride_qh, D: tl.constexpr, GROUP: tl.constexpr, PAD: tl.constexpr):
    """The queries [PAD, D] of the heads that share a list, zero from GROUP on."""
    d, g = tl.arange(0, D), tl.arange(0, PAD)
    source = q + batch.to(tl.int64) * stride_qb + (list_head * GROUP + g)[:, None] * stride_qh + d[None, :]
    return tl.load(source, mask=g[:, None] < GROUP, other=0.0)


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
def store_merged(
    high, norm, acc, out, stride_oh, partial, norms, arrivals, row, split, num_splits, used, there_is,
    D: tl.constexpr, GROUP: tl.constexpr, GROUP_PAD: tl.constexpr, SPLITS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Write a row's result: at once when one split is used, else by the last split to arrive, which merges them all.

    out: where the row's first query head goes.
    """
    d, g = tl.arange(0, D), tl.arange(0, GROUP_PAD)
    if used == 1:
        if (split == 0) & there_is:
            result = acc / tl.where(norm > 0, norm, 1.0)[:, None]
            target = out + g[:, None] * stride_oh + d[None, :]
            tl.store(target, result.to(out.dtype.element_ty), mask=g[:, None] < GROUP)
    elif split < used:
        base = row.to(tl.int64) * num_splits * GROUP
        own = base + split * GROUP + g
        tl.store(partial + own[:, None] * D + d[None, :], acc / norm[:, None], mask=g[:, None] < GROUP)
        tl.store(norms + own, high + tl.log2(norm), mask=g < GROUP)
        tl.debug_barrier()
        if tl.atomic_add(arrivals + row, 1, sem="acq_rel", scope="gpu") == used - 1:
            tl.debug_barrier()
            tl.store(arrivals + row, 0)
            s = tl.arange(0, SPLITS)
            # All splits of some columns (query head, element) at once, so that few reads wait for each other.
            for first in tl.static_range(0, GROUP * D, COLUMNS):
                column = first + tl.arange(0, COLUMNS)
                inside = (s[:, None] < used) & (column[None, :] < GROUP * D)
                lse = tl.load(
                    norms + base + s[:, None] * GROUP + column[None, :] // D,
                    mask=inside, other=float("-inf"), cache_modifier=".cg",
                )  # fmt: skip
                piece = tl.load(
                    partial + (base + s[:, None] * GROUP) * D + column[None, :],
                    mask=inside, other=0.0, cache_modifier=".cg",
                )  # fmt: skip
                top = tl.max(lse, 0)
                weight = tl.exp2(lse - tl.where(top == float("-inf"), 0.0, top)[None, :])
                total = tl.sum(weight, 0)
                result = tl.sum(piece * weight, 0) / tl.where(total > 0, total, 1.0)
                target = out + column // D * stride_oh + column % D
                tl.store(target, result.to(out.dtype.element_ty), mask=column < GROUP * D)


@triton.jit
def _decode_lists(
    q, k, v, out, table, counts, widths, block_table, seq_lens, prompt_lens, partial, norms, arrivals,
    stride_qb, stride_qh, stride_ob, stride_oh, stride_kp, stride_kt, stride_kh, stride_bt,
    width, num_splits, scale_log2,
    D: tl.constexpr, LIST_HEADS: tl.constexpr, PER_KV: tl.constexpr, GROUP: tl.constexpr, GROUP_PAD: tl.constexpr,
    PAGE: tl.constexpr, CACHE_PAGE: tl.constexpr, TAIL: tl.constexpr, BLOCK: tl.constexpr, GRAIN: tl.constexpr,
    SPLITS: tl.constexpr, COLUMNS: tl.constexpr, ADDRESSES: tl.constexpr, SKIP_EMPTY: tl.constexpr,
    EARLY: tl.constexpr,
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
    begin, stop, used = split_range(total, split, num_splits, BLOCK, GRAIN)
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
    store_merged(
        high, norm, acc, first_head, stride_oh, partial, norms, arrivals, row, split, num_splits, used,
        (total > 0) | (not SKIP_EMPTY), D, GROUP, GROUP_PAD, SPLITS, COLUMNS,
    )  # fmt: skip


def merge_options(splits: int, warps: int) -> dict[str, int]:
    """How `store_merged` reads: all splits, and so many columns that each thread holds 32 elements."""
    padded = triton.next_power_of_2(splits)
    return {"SPLITS": padded, "COLUMNS": max(32, warps * 1024 // padded)}


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
    shape: DecodeShape = SHAPE,
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
        splits = num_splits(rows, max_tokens, shape)
        scratch = new_scratch(rows, splits, group, d, q.device, shared_counters(rows, q.device))
    block_table, seq_lens, prompt_lens = generated or (counts, counts, counts)
    _decode_lists[(scratch.norms.shape[1], rows)](
        q, keys, values, out, table, counts, counts if widths is None else widths, block_table, seq_lens, prompt_lens,
        scratch.partial, scratch.norms, scratch.arrivals,
        q.stride(0), q.stride(1), out.stride(0), out.stride(1), keys.stride(0), keys.stride(1), keys.stride(2),
        block_table.stride(0), table.shape[-1], scratch.norms.shape[1], scale * LOG2E,
        D=d, LIST_HEADS=list_heads, PER_KV=list_heads // keys.shape[2], GROUP=group,
        GROUP_PAD=max(16, triton.next_power_of_2(group)), PAGE=page_size, CACHE_PAGE=keys.shape[1],
        TAIL=generated is not None, BLOCK=shape.tile, GRAIN=GRAIN,
        **merge_options(scratch.norms.shape[1], shape.warps), ADDRESSES=widths is not None, SKIP_EMPTY=skip_empty,
        num_warps=shape.warps, num_stages=shape.stages, **launch_options(),
    )  # fmt: skip
    return out
