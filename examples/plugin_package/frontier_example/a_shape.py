"""Options of the method `a_shape`. Plain Python: this module is imported where there may be no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparsekernels.parameters import ParameterError, Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class AShape:
    """Rows of the prompt read the first tokens and a band of recent ones (A-shape of MInference, arXiv 2407.02490)."""

    name: ClassVar[str] = "a_shape"
    phase: ClassVar[Phase] = Phase.PREFILL
    budget_field: ClassVar[str] = "local_blocks"
    select: ClassVar[str] = "frontier_example.a_shape_selection:select"

    local_blocks: int
    """Blocks below the diagonal that are read, besides the row's own."""
    sink_blocks: int = 1
    """First blocks, which are always read."""
    block_size: int = 16
    """Tokens in a block, and rows that share a list; a power of two from 16 on."""

    def __post_init__(self) -> None:
        if self.block_size < 16 or self.block_size & (self.block_size - 1):
            raise ParameterError(f"block_size is {self.block_size}; it must be a power of two, at least 16")
        for option in ("local_blocks", "sink_blocks"):
            if getattr(self, option) < 0:
                raise ParameterError(f"{option} is {getattr(self, option)}; it must be at least 0")

    def nominal_density(self, length_tokens: int) -> float:
        """Causal block pairs that are read, over all."""
        blocks = -(-length_tokens // self.block_size)
        read = min(blocks, self.local_blocks + self.sink_blocks + 1)
        return (read * (read + 1) / 2 + (blocks - read) * read) / (blocks * (blocks + 1) / 2)
