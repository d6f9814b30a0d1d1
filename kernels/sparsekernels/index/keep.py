# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
"""What SnapKV and Ada-SnapKV keep, from smoothed votes straight to cache slots in two or three launches.

The definition is `sparsekernels.methods.snapkv.keep`; ties go to the lower position here too, and nothing waits for
the host.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsekernels.index.launch import CHANGING
from sparsekernels.index.order import MOST_SCANNED, cut_row, row_keys, row_options, top_prefix_of_all
from sparsekernels.methods.snapkv import Gather, floor_of, most_kept
from sparsekernels.parameters import AdaSnapKV, SnapKV


@triton.jit(do_not_specialize=CHANGING)
def _take_best(
    votes, rest, size, want, sink, local_from,
    BLOCK: tl.constexpr, IN_REGISTERS: tl.constexpr, SCAN: tl.constexpr,
):  # fmt: skip
    """A head's `want` best become −1, the others stay as they are."""
    row = tl.program_id(0).to(tl.int64) * size
    low, high, above = cut_row(votes + row, size, want, sink, local_from, BLOCK, IN_REGISTERS)
    i, tied = tl.arange(0, SCAN), 0
    for n in range(0, size, SCAN):
        key = row_keys(votes + row, n + i, size, sink, local_from)
        equal = ((key == low) & (key < high)).to(tl.int32)
        best = (key >= high) | ((equal > 0) & (tied + tl.cumsum(equal, 0) <= want - above))
        vote = tl.load(votes + row + n + i, mask=n + i < size, other=0.0)
        tl.store(rest + row + n + i, tl.where(best, -1.0, vote), mask=n + i < size)
        tied += tl.sum(equal, 0)


@triton.jit(do_not_specialize=CHANGING)
def _list_slots(
    rest, prefix, block_table, slots, counts, size, width, first_head,
    PAGE: tl.constexpr, BLOCK: tl.constexpr, ADAPTIVE: tl.constexpr,
):  # fmt: skip
    """Cache slots of a head's tokens whose rest is −1 or, when ADAPTIVE, where the prefix over all heads steps up."""
    head = tl.program_id(0).to(tl.int64)
    line = (first_head + head) * size
    i, taken = tl.arange(0, BLOCK), 0
    for n in range(0, size, BLOCK):
        token = n + i
        kept = tl.load(rest + line + token, mask=token < size, other=0.0) == -1.0
        if ADAPTIVE:
            after = tl.load(prefix + line + token, mask=token < size, other=0)
            before = tl.load(prefix + line + token - 1, mask=(token < size) & (line + token > 0), other=0)
            kept = kept | (after > before)
        place = taken + tl.cumsum(kept.to(tl.int32), 0) - 1
        slot = tl.load(block_table + token // PAGE, mask=token < size, other=0) * PAGE + token % PAGE
        tl.store(slots + head * width + place, slot, mask=kept & (place < width))
        taken += tl.sum(kept.to(tl.int32), 0)
    tl.store(counts + head, tl.minimum(taken, width))


def keep_slots(
    smoothed: Tensor,
    parameters: SnapKV | AdaSnapKV,
    block_table: Tensor,
    page: int,
    gather: Gather | None = None,
) -> tuple[Tensor, Tensor]:
    """Cache slots int32 [Hkv, W] of what is kept, ascending by token, zero behind the counts int32 [Hkv].

    smoothed float32 [Hkv, L], not negative; block_table int32 [≥ L / page] of the one sequence; gather as in `keep`.
    """
    pooled, first = smoothed, 0
    if gather is not None and isinstance(parameters, AdaSnapKV) and parameters.pool_heads == "layer":
        pooled, first = gather(smoothed)
    pooled = pooled.contiguous()
    (local, length), heads, limit = smoothed.shape, len(pooled), min(parameters.token_capacity, smoothed.shape[1])
    rest = torch.empty_like(pooled)
    if isinstance(parameters, AdaSnapKV):
        own, width = floor_of(parameters, length), most_kept(parameters, heads, length)
    else:
        own = width = limit
    _take_best[(heads,)](
        pooled, rest, length, own, parameters.sink_size, length - parameters.local_size, **row_options(length)
    )
    adaptive = isinstance(parameters, AdaSnapKV)
    prefix = top_prefix_of_all(rest, max(0, limit - own) * heads) if adaptive else rest
    slots = torch.zeros(local, width, dtype=torch.int32, device=smoothed.device)
    counts = torch.empty(local, dtype=torch.int32, device=smoothed.device)
    _list_slots[(local,)](
        rest, prefix, block_table, slots, counts, length, width, first,
        PAGE=page, BLOCK=min(triton.next_power_of_2(length), MOST_SCANNED), ADAPTIVE=adaptive, num_warps=8,
    )  # fmt: skip
    return slots, counts
