"""From a target density (1 ÷ compression) to a method's parameters.

Where the density follows from the parameters (block-sparse, Quest, SnapKV) it is computed; for vertical-slash and
FlexPrefill it depends on the input, so it is measured on given queries and keys and bisected.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sparsekernels.parameters import AdaSnapKV, BlockSparse, FlexPrefill, Quest, SnapKV, VerticalSlash

Measure = Callable[[VerticalSlash | FlexPrefill], float]
"""Density in prefill that a method has on the caller's queries and keys."""


def analytic_density(method: object, num_queries: int, length: int) -> float | None:
    """Prefill density known without looking at the input, or None. The rows are the last `num_queries` positions."""
    if isinstance(method, BlockSparse):
        return _block_sparse_density(method, num_queries, length)
    if isinstance(method, VerticalSlash) and max(method.vertical_size, method.slash_size) >= length:
        return 1.0
    if isinstance(method, FlexPrefill) and (method.alpha == 1 or method.min_budget >= length):
        return 1.0
    return None


def _block_sparse_density(method: BlockSparse, num_queries: int, length: int) -> float:
    first, size, computed = length - num_queries, method.block_size, 0
    for block in range(first // method.rows, -(-length // method.rows)):
        start, end = max(first, block * method.rows), min(length, (block + 1) * method.rows)
        allowed = -(-end // size)
        tokens = (min(method.top_blocks, allowed) - 1) * size + end - (allowed - 1) * size
        rows = end - start
        computed += rows * (tokens - rows) + rows * (rows + 1) // 2
    return computed / (num_queries * first + num_queries * (num_queries + 1) // 2)


def block_sparse_for(method: BlockSparse, target: float, length: int) -> BlockSparse:
    """The largest top_blocks whose density on a whole prompt of `length` tokens is at most `target` (or the least)."""
    least = method.sink_blocks + method.local_blocks + max(1, method.rows // method.block_size)
    top = _bisect(
        lambda n: _block_sparse_density(replace(method, top_blocks=n), length, length), least,
        -(-length // method.block_size), target,
    )  # fmt: skip
    return replace(method, top_blocks=top)


def quest_for(method: Quest, target: float, length: int) -> Quest:
    """token_budget ÷ length = target, rounded to whole pages, at least one."""
    pages = max(1, round(target * length / method.page_size))
    return replace(method, token_budget=pages * method.page_size)


def kept_for(method: SnapKV | AdaSnapKV, target: float, length: int) -> SnapKV | AdaSnapKV:
    """token_capacity ÷ length = target, at least one token more than the forced ones."""
    return replace(method, token_capacity=max(method.sink_size + method.local_size + 1, round(target * length)))


def vertical_slash_for(method: VerticalSlash, target: float, length: int, measure: Measure) -> VerticalSlash:
    """The largest vertical_size = slash_size with a measured density of at most `target` (or the least allowed)."""

    def at(size: int) -> VerticalSlash:
        return replace(method, vertical_size=size, slash_size=size)

    least = max(1, method.sink_size, method.local_size)
    return at(_bisect(lambda size: measure(at(size)), least, length, target))


def flexprefill_for(
    method: FlexPrefill, target: float, length: int, measure: Measure, *, grow: bool = False
) -> FlexPrefill:
    """The largest alpha, in steps of 0.01, at the method's min_budget with a density of at most `target`.

    When min_budget alone is denser than that, alpha is 0 and min_budget shrinks (as in The Sparse Frontier). `grow`:
    when no alpha but 0 is sparse enough (attention without structure), min_budget grows up to the target instead.
    """
    if measure(replace(method, alpha=0.0)) > target:
        least = max(method.sink_size, method.local_size)
        budget = _bisect(lambda n: measure(replace(method, alpha=0.0, min_budget=n)), least, method.min_budget, target)
        return replace(method, alpha=0.0, min_budget=budget)
    steps = _bisect(lambda n: measure(replace(method, alpha=n / 100)), 0, 100, target)
    if steps == 0 and grow:
        at_zero = replace(method, alpha=0.0)
        budget = _bisect(lambda n: measure(replace(at_zero, min_budget=n)), method.min_budget, length, target)
        return replace(at_zero, min_budget=budget)
    return replace(method, alpha=steps / 100)


def _bisect(density: Callable[[int], float], low: int, high: int, target: float) -> int:
    """The largest integer in low … high whose density is at most target, or low; density must not fall."""
    while low < high:
        middle = (low + high + 1) // 2
        if density(middle) <= target:
            low = middle
        else:
            high = middle - 1
    return low
