"""What density a method's budget comes to, before it was measured: exact where arithmetic decides, else a prior."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sparsekernels.parameters import FlexPrefill, MethodChoice, SparseK, VerticalSlash

from orchestrator.domain.compression import nominal_compression

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
    if isinstance(choice.prefill, SparseK):
        decode = min(1.0, choice.prefill.slots / length_tokens)
        return Densities(prefill=_density(choice.prefill, length_tokens), decode=decode)
    return Densities(
        prefill=_density(choice.prefill, length_tokens),
        decode=min(_density(choice.decode, length_tokens), _density(choice.compress, length_tokens)),
    )


def _density(method: Any, length: int) -> float:
    if method is None:
        return 1.0
    if isinstance(method, VerticalSlash):
        return min(1.0, VERTICAL_SLASH_SPREAD * (method.vertical_size + method.slash_size) / length)
    if isinstance(method, FlexPrefill):
        least = VERTICAL_SLASH_SPREAD * 2 * method.min_budget / length
        return min(1.0, max(least, COVERAGE_DENSITY * method.alpha**2))
    compression = nominal_compression(method, length)
    return 1.0 if compression is None else 1.0 / compression
