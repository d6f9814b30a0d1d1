# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
"""Top-k inside Triton by searching the threshold's bits: no sort, no atomics, and ties go to the lower index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsekernels.index.launch import CHANGING


@triton.jit
def ordered_bits(x):
    """int32 keys that order as the float32 values do."""
    bits = x.to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def ordered_values(key):
    """The float32 values of which `ordered_bits` made the keys."""
    return (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def _gather(low_0, high_0, sum_0, squares_0, low_1, high_1, sum_1, squares_1):
    return tl.minimum(low_0, low_1), tl.maximum(high_0, high_1), sum_0 + sum_1, squares_0 + squares_1


@triton.jit
def _normal_quantile(share):
    """The z that a normal deviate exceeds with probability `share`, 0 < share ≤ ½.

    Abramowitz and Stegun, Handbook of Mathematical Functions, 26.2.23; within 4.5e-4.
    """
    t = tl.sqrt(-2.0 * tl.log(share))
    return t - (2.515517 + t * (0.802853 + t * 0.010328)) / (1.0 + t * (1.432788 + t * (0.189269 + t * 0.001308)))


@triton.jit
def _first_look(key, valid, num_valid, want):
    """The lowest and the highest valid key, and three keys about where the cut would be if the values were normal."""
    value = ordered_values(key)
    value = tl.where(valid & (tl.abs(value) < 1e18), value, 0.0)  # what is forced to a rank has no value
    low, high, total, squares = tl.reduce((tl.where(valid, key, 0x7FFFFFFC), key, value, value * value), 0, _gather)
    number = tl.maximum(num_valid, 1).to(tl.float32)
    z = _normal_quantile(tl.minimum(tl.maximum(want, 1).to(tl.float32) / number, 0.5))
    mean = total / number
    deviation = tl.sqrt(tl.maximum(squares / number - mean * mean, 0.0))
    one = ordered_bits(mean + (z - 0.25) * deviation)
    two = ordered_bits(mean + z * deviation)
    three = ordered_bits(mean + (z + 0.25) * deviation)
    return low, high, one, two, three


@triton.jit
def select_top(key, valid, num_valid, want):
    """The `want` (≥ 0) largest valid keys of a vector of int32 keys, ties to the lower index: bool, and int32 rank.

    `num_valid` says how many are valid, at most 65,535. The rank of a selected key is how many selected ones there are
    up to it.
    """
    key = tl.minimum(tl.maximum(key, -0x7FFFFFFC), 0x7FFFFFFC)
    key = tl.where(valid, key, -0x7FFFFFFE)
    low, high, one, two, three = _first_look(key, valid, num_valid, want)
    high += 1
    above = 0
    # Invariant: at least `want` keys are ≥ low, exactly `above` < want are ≥ high.
    if want >= num_valid:
        high = low
        above = want
    # Two bits a round, after the guess; the counts at two of the three thresholds travel in one sum, 16 bits each.
    while high.to(tl.int64) - low > 1:
        one = tl.minimum(tl.maximum(one, low + 1), high - 1)
        two = tl.minimum(tl.maximum(two, low + 1), high - 1)
        three = tl.minimum(tl.maximum(three, low + 1), high - 1)
        pair = tl.sum((key >= one).to(tl.int32) + ((key >= two).to(tl.int32) << 16), 0)
        at_one, at_two = pair & 0xFFFF, (pair >> 16) & 0xFFFF
        at_three = tl.sum((key >= three).to(tl.int32), 0)
        if at_three >= want:
            low = three
            if at_three == want:
                high = three
                above = at_three
        elif at_two >= want:
            low = two
            high = three
            above = at_three
            if at_two == want:
                high = two
                above = at_two
        elif at_one >= want:
            low = one
            high = two
            above = at_two
            if at_one == want:
                high = one
                above = at_one
        else:
            high = one
            above = at_one
        span = high.to(tl.int64) - low
        one = (low + (span >> 2)).to(tl.int32)
        two = (low + (span >> 1)).to(tl.int32)
        three = (low + (span - (span >> 2))).to(tl.int32)
    # One scan counts the sure ones and the tied ones, in the two halves of a word.
    sure = valid & (key >= high)
    equal = (key == low) & (key < high)
    scan = tl.cumsum(sure.to(tl.int32) + (equal.to(tl.int32) << 16), 0)
    ties = (scan >> 16) & 0xFFFF
    chosen = sure | (equal & (ties <= want - above))
    return chosen, (scan & 0xFFFF) + tl.minimum(ties, tl.maximum(want - above, 0))


MOST_SCANNED = 8192
"""Entries that a pass over a row takes at once when it writes: more would not fit in a program's registers."""


@triton.jit
def row_keys(scores, n, size, forced, forced_from):
    """int32 keys of a row of non-negative scores: infinity before `forced` and from `forced_from` on, −1 beyond it."""
    x = tl.load(scores + n, mask=n < size, other=0.0)
    is_forced = (n < forced) | (n >= forced_from)
    return tl.where(n < size, tl.where(is_forced, 0x7F800000, x.to(tl.int32, bitcast=True)), -1)


@triton.jit
def cut_row(scores, size, want, forced, forced_from, BLOCK: tl.constexpr, IN_REGISTERS: tl.constexpr):
    """(low, high, above): keys ≥ high are among the `want` largest, `above` of them; those equal to low fill up."""
    i = tl.arange(0, BLOCK)
    low, high, above = 0, 0x7FFFFFFF, 0
    first = row_keys(scores, i, size, forced, forced_from)
    while high - low > 1:
        middle = low + (high - low) // 2
        hits = (first >= middle).to(tl.int32)
        if not IN_REGISTERS:
            for n in range(BLOCK, size, BLOCK):
                hits += (row_keys(scores, n + i, size, forced, forced_from) >= middle).to(tl.int32)
        count = tl.sum(hits, 0)
        if count == want:
            high, low, above = middle, middle - 1, count
        elif count > want:
            low = middle
        else:
            high, above = middle, count
    return low, high, above


@triton.jit
def _sums_of_four(key, threshold, BLOCK: tl.constexpr):
    hits = key >= threshold
    mass = tl.reshape(tl.where(hits, key, 0).to(tl.float32, bitcast=True), [BLOCK // 4, 4])
    return tl.sum(mass, 1).to(tl.float64), tl.sum(tl.reshape(hits.to(tl.int32), [BLOCK // 4, 4]), 1)


@triton.jit
def _from(first, scores, size, threshold, BLOCK: tl.constexpr, IN_REGISTERS: tl.constexpr):
    """(sum, int32 number) of a row's values whose keys are ≥ `threshold` (≥ 0), always added in one order.

    Four values are added as float32, which fit in a thread's registers; their sums as float64.
    """
    mass, count = _sums_of_four(first, threshold, BLOCK)
    if not IN_REGISTERS:
        for n in range(BLOCK, size, BLOCK):
            key = row_keys(scores, n + tl.arange(0, BLOCK), size, 0, size)
            more_mass, more_count = _sums_of_four(key, threshold, BLOCK)
            mass += more_mass
            count += more_count
    return tl.sum(mass, 0), tl.sum(count, 0)


@triton.jit
def covered_entries(scores, size, limit, BLOCK: tl.constexpr, IN_REGISTERS: tl.constexpr):
    """How many of a row's largest entries have a sum of at most `limit` (float64, ≥ 0); at most 1 if it is 0."""
    first = row_keys(scores, tl.arange(0, BLOCK), size, 0, size)
    low, high, covered, covered_mass = 0, 0x7F800000, 0, limit * 0
    mass, reached = _from(first, scores, size, low, BLOCK, IN_REGISTERS)
    if mass <= limit:
        covered = tl.where(limit > 0, size, 1)
        reached = covered
    # Invariant: the values from low on (`reached` of them) exceed the limit, those from high on (`covered`) do not.
    while (high - low > 1) & (reached - covered > 1):
        middle = low + (high - low) // 2
        mass, count = _from(first, scores, size, middle, BLOCK, IN_REGISTERS)
        if mass > limit:
            low, reached = middle, count
        else:
            high, covered, covered_mass = middle, count, mass
    if reached - covered > 1:  # Equal ones: some of them fit, not all.
        value = tl.full([], low, tl.int32).to(tl.float32, bitcast=True).to(tl.float64)
        covered += tl.minimum(((limit - covered_mass) / value).to(tl.int32), reached - covered - 1)
    return covered


@triton.jit(do_not_specialize=CHANGING)
def _top_prefix(
    scores, prefix, size, rows_each, forced_0, forced_1, want_0, want_1, alpha, num_rows,
    COVER: tl.constexpr, BLOCK: tl.constexpr, IN_REGISTERS: tl.constexpr, SCAN: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    second = row >= rows_each
    forced = tl.where(second, forced_1, forced_0)
    want = tl.where(second, want_1, want_0)
    scores += row * size
    if COVER:
        limit = tl.full([], alpha, tl.float32).to(tl.float64) * num_rows
        part: tl.constexpr = BLOCK if IN_REGISTERS else BLOCK // 2
        want = tl.maximum(want, covered_entries(scores, size, limit, part, IN_REGISTERS) + 1)
    want = tl.minimum(want, size)
    low, high, above = cut_row(scores, size, want, forced, size, BLOCK, IN_REGISTERS)
    i = tl.arange(0, SCAN)
    ties, taken, equal_before = want - above, 0, 0
    for n in range(0, size, SCAN):
        key = row_keys(scores, n + i, size, forced, size)
        equal = (key == low).to(tl.int32)
        rank = equal_before + tl.cumsum(equal, 0)
        chosen = ((key >= high) | ((equal > 0) & (rank <= ties))).to(tl.int32)
        tl.store(prefix + row * size + n + i, taken + tl.cumsum(chosen, 0), mask=n + i < size)
        equal_before += tl.sum(equal, 0)
        taken += tl.sum(chosen, 0)


@dataclass(frozen=True, slots=True)
class Covering:
    """As many entries as `methods.flexprefill.coverage_counts` keeps of a row's shares of `num_rows`."""

    alpha: float
    min_budget: int
    num_rows: int


def top_prefix(scores: Tensor, counts: tuple[int, int] | Covering, forced: tuple[int, int]) -> Tensor:
    """How many of positions 0 … i are among the top: int32 [2, R, N] for non-negative float32 scores [2, R, N].

    `counts` entries a row, one number for each half or what covers a share, searched row by row; the first `forced`
    positions of each half rank as infinity. The selected positions are those where the result steps up.
    """
    _, rows, size = scores.shape
    prefix = torch.empty(scores.shape, dtype=torch.int32, device=scores.device)
    if isinstance(counts, Covering) and counts.alpha == 1:  # everything, however the sum was rounded
        counts = (size, size)
    cover = isinstance(counts, Covering)
    want = (counts.min_budget, counts.min_budget) if isinstance(counts, Covering) else counts
    alpha, num_rows = (counts.alpha, counts.num_rows) if isinstance(counts, Covering) else (0.0, 1)
    _top_prefix[(2 * rows,)](
        scores, prefix, size, rows, *forced, *want, alpha, num_rows, COVER=cover, **row_options(size)
    )
    return prefix


def top_prefix_of_all(scores: Tensor, want: int) -> Tensor:
    """The same for all scores [...] as one row, negative ones never among the `want` largest: int32 of their shape."""
    prefix = torch.empty(scores.shape, dtype=torch.int32, device=scores.device)
    size = scores.numel()
    _top_prefix[(1,)](
        scores, prefix, size, 1, 0, 0, want, want, 0.0, 1, COVER=False, **row_options(size)
    )  # fmt: skip
    return prefix


def row_options(size: int) -> dict[str, Any]:
    """How `cut_row` reads rows of `size`."""
    # A row that does not fit in registers is read again and again, beside a first part that stays.
    block = max(4, triton.next_power_of_2(size)) if size <= 32768 else 16384
    warps = 16 if block >= 8192 else 4
    return {"BLOCK": block, "IN_REGISTERS": block >= size, "SCAN": min(block, MOST_SCANNED), "num_warps": warps}
