"""What density a method's budget will come to, before it was measured. Exact where the method fixes it, else a prior."""

from __future__ import annotations

from dataclasses import dataclass

from sparsekernels.parameters import AdaSnapKV, BlockSparse, FlexPrefill, MethodChoice, Quest, SnapKV, VerticalSlash

VERTICAL_SLASH_SPREAD = 2.4
"""Computed pairs over those of the bare columns and diagonals: diagonals widen to blocks. It maps the budgets of
"The Sparse Frontier" at 16k tokens to their compression ratios, 20 to 1.5."""
COVERAGE_DENSITY = 0.6
"""FlexPrefill computes about this share × alpha² of the pairs, from the same grid (alpha .55, .71, .88)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Densities:
    """Shares of the causally allowed pairs, per phase."""

    prefill: float
    decode: float


def nominal_densities(choice: MethodChoice, length_tokens: int) -> Densities:
    """Expected densities of a method at a prompt length."""
    return Densities(prefill=_prefill(choice.prefill, length_tokens), decode=_decode(choice, length_tokens))


def _prefill(method: object, length: int) -> float:
    if isinstance(method, BlockSparse):
        return _block_sparse(method, length)
    if isinstance(method, VerticalSlash):
        return min(1.0, VERTICAL_SLASH_SPREAD * (method.vertical_size + method.slash_size) / length)
    if isinstance(method, FlexPrefill):
        least = VERTICAL_SLASH_SPREAD * 2 * method.min_budget / length
        return min(1.0, max(least, COVERAGE_DENSITY * method.alpha**2))
    return 1.0


def _block_sparse(method: BlockSparse, length: int) -> float:
    """Row m of n blocks keeps min(top, m) blocks."""
    blocks = -(-length // method.block_size)
    top = min(method.top_blocks, blocks)
    return (top * (top + 1) / 2 + (blocks - top) * top) / (blocks * (blocks + 1) / 2)


def _decode(choice: MethodChoice, length: int) -> float:
    density = 1.0
    if isinstance(choice.compress, SnapKV | AdaSnapKV):
        density = min(density, choice.compress.token_capacity / length)
    if isinstance(choice.decode, Quest):
        density = min(density, choice.decode.token_budget / length)
    return density
