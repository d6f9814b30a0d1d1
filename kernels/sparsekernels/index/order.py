"""Top-k inside Triton by searching the threshold's bits: no sort, no atomics, and ties go to the lower index."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def ordered_bits(x):
    """int32 keys that order as the float32 values do."""
    bits = x.to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def select_top(key, valid, want):
    """bool: the `want` (≥ 0) largest valid keys of a vector of int32 keys, ties to the lower index."""
    key = tl.minimum(tl.maximum(key, -0x7FFFFFFC), 0x7FFFFFFC)
    key = tl.where(valid, key, -0x7FFFFFFE)
    low = tl.min(tl.where(valid, key, 0x7FFFFFFC), 0)
    high = tl.max(key, 0) + 1
    above = 0
    # Invariant: at least `want` keys are ≥ low, exactly `above` < want are ≥ high.
    if want >= tl.sum(valid.to(tl.int32), 0):
        high = low
        above = want
    while high.to(tl.int64) - low > 1:
        middle = ((high.to(tl.int64) + low) >> 1).to(tl.int32)
        count = tl.sum((key >= middle).to(tl.int32), 0)
        if count == want:
            high = middle
            low = middle
            above = count
        elif count > want:
            low = middle
        else:
            high = middle
            above = count
    equal = (key == low) & (key < high)
    return (valid & (key >= high)) | (equal & (tl.cumsum(equal.to(tl.int32), 0) <= want - above))


@triton.jit
def _row_keys(scores, n, size, forced):
    x = tl.load(scores + n, mask=n < size, other=0.0)
    return tl.where(n < size, tl.where(n < forced, 0x7F800000, x.to(tl.int32, bitcast=True)), -1)


@triton.jit
def _top_prefix(scores, counts, prefix, size, forced, want_all, HAS_COUNTS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    want = want_all
    if HAS_COUNTS:
        want = tl.load(counts + row).to(tl.int32)
    want = tl.minimum(want, size)
    i = tl.arange(0, BLOCK)
    low, high, above = 0, 0x7F800001, 0
    while high - low > 1:
        middle = low + (high - low) // 2
        hits = tl.zeros([BLOCK], tl.int32)
        for n in range(0, size, BLOCK):
            hits += (_row_keys(scores + row * size, n + i, size, forced) >= middle).to(tl.int32)
        count = tl.sum(hits, 0)
        if count == want:
            high, low, above = middle, middle - 1, count
        elif count > want:
            low = middle
        else:
            high, above = middle, count
    ties, taken, equal_before = want - above, 0, 0
    for n in range(0, size, BLOCK):
        key = _row_keys(scores + row * size, n + i, size, forced)
        equal = (key == low).to(tl.int32)
        rank = equal_before + tl.cumsum(equal, 0)
        chosen = ((key >= high) | ((equal > 0) & (rank <= ties))).to(tl.int32)
        tl.store(prefix + row * size + n + i, taken + tl.cumsum(chosen, 0), mask=n + i < size)
        equal_before += tl.sum(equal, 0)
        taken += tl.sum(chosen, 0)


def top_prefix(scores: Tensor, counts: int | Tensor, forced: int) -> Tensor:
    """How many of positions 0 … i are among the top: int32 [R, N] for non-negative scores [R, N], float32 contiguous.

    `counts` entries a row (an int, or an int tensor [R]); the first `forced` positions rank as infinity. The selected
    positions are those where the result steps up.
    """
    rows, size = scores.shape
    prefix = torch.empty(rows, size, dtype=torch.int32, device=scores.device)
    block = min(triton.next_power_of_2(size), 8192)
    given = isinstance(counts, Tensor)
    _top_prefix[(rows,)](
        scores,
        counts if given else prefix,
        prefix,
        size,
        forced,
        0 if given else counts,
        HAS_COUNTS=given,
        BLOCK=block,
        num_warps=16 if block >= 4096 else 4,
    )
    return prefix
