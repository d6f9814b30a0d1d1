"""Between a method's own budget and the compression that it nominally means, where arithmetic alone decides.

Vertical-slash and FlexPrefill are absent: their compression depends on the attention itself and is measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any

from sparsekernels.parameters import METHODS, AdaSnapKV, BlockSparse, ParameterError, Quest, SnapKV, SparseK


def nominal_compression(method: Any, length_tokens: int) -> float | None:
    """Dense work over the method's work for a prompt of `length_tokens`, or None when only measuring tells.

    Block-sparse: causal block pairs (Sparse Frontier section 3, `k(k+1)/2 + (n−k)k` of `n(n+1)/2` blocks).
    Quest and SnapKV: prompt tokens over tokens read. SparseK: causal pairs of the prompt over those of its slots.
    A method of a package: one over its own `nominal_density`, where it has one.
    """
    if isinstance(method, BlockSparse):
        return _block_compression(method.top_blocks, -(-length_tokens // method.block_size))
    if isinstance(method, Quest):
        return max(1.0, length_tokens / method.token_budget)
    if isinstance(method, (SnapKV, AdaSnapKV)):
        return max(1.0, length_tokens / method.token_capacity)
    if isinstance(method, SparseK):
        return _causal_pairs(length_tokens, length_tokens) / _causal_pairs(length_tokens, method.slots)
    density = getattr(method, "nominal_density", None)
    return None if density is None else 1.0 / min(1.0, max(float(density(length_tokens)), 1 / length_tokens))


def from_compression(name: str, options: Mapping[str, Any], length_tokens: int) -> dict[str, Any]:
    """Options with `compression` replaced by the budget that comes closest to it without exceeding the cost."""
    values = dict(options)
    target = values.pop("compression")
    if isinstance(target, bool) or not isinstance(target, (int, float)) or not 1 <= target < inf:
        raise ParameterError(f"{name}: compression is {target!r}; it must be a number of at least 1")
    if name == Quest.name:
        page = _size(name, "page_size", values)
        values["token_budget"] = max(page, int(length_tokens / target) // page * page)
    elif name in (SnapKV.name, AdaSnapKV.name):
        values["token_capacity"] = int(length_tokens / target)
    elif name == BlockSparse.name:
        values["top_blocks"] = _top_blocks(target, -(-length_tokens // _size(name, "block_size", values)))
    elif hasattr(METHODS[name], "nominal_density"):
        values |= _plugin_budget(METHODS[name], values, 1 / target, length_tokens)
    else:
        raise ParameterError(f"{name}: compression cannot be set for this method; give its own budget")
    return values


def _size(name: str, option: str, values: Mapping[str, Any]) -> int:
    """The size of a page or a block: the option's value, else the method's default."""
    size = values.get(option, METHODS[name].__dataclass_fields__[option].default)
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ParameterError(f"{name}: {option} is {size!r}; it must be a whole number of at least 1")
    return size


def _plugin_budget(cls: type[Any], values: Mapping[str, Any], density: float, length_tokens: int) -> dict[str, int]:
    """The largest whole budget of a plug-in's method whose nominal density is at most `density`, by bisection.

    Densities must not fall with the budget. Budgets that the method refuses count as too small.
    """

    def fits(budget: int) -> bool:
        try:
            return float(cls(**{**values, cls.budget_field: budget}).nominal_density(length_tokens)) <= density
        except ParameterError:
            return True

    low, high = 1, length_tokens
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return {cls.budget_field: low}


def _causal_pairs(rows: int, most: int) -> float:
    """Pairs that `rows` causal rows read when each reads at most `most` keys."""
    full = min(rows, most)
    return full * (full + 1) / 2 + (rows - full) * full


def _block_compression(top: int, blocks: int) -> float:
    kept = min(top, blocks)
    return blocks * (blocks + 1) / (kept * (kept + 1) + 2 * (blocks - kept) * kept)


def _top_blocks(target: float, blocks: int) -> int:
    """The most blocks a row whose compression is still at least `target`, by bisection."""
    low, high = 1, blocks
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _block_compression(middle, blocks) >= target else (low, middle - 1)
    return low
