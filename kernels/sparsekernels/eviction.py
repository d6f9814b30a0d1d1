"""Parameters of TOVA and StreamingLLM, two methods that come through the door (`sparsekernels.door`) like a stranger's.

Their functions are in `sparsekernels.methods.tova` and `sparsekernels.methods.streaming_llm`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparsekernels.door import ParameterError, Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class Tova:
    """Drops the cache entry that the newest token attends to least, at each step (TOVA, arXiv 2401.06104)."""

    name: ClassVar[str] = "tova"
    phase: ClassVar[Phase] = Phase.DECODE
    budget_field: ClassVar[str] = "token_capacity"
    select: ClassVar[str] = "sparsekernels.methods.tova:select"
    version: ClassVar[str] = "1"
    window: ClassVar[int] = 1

    token_capacity: int
    """Cache entries that stay from step to step, the same for all heads of a layer; a step reads its own besides."""

    def __post_init__(self) -> None:
        if self.token_capacity < 1:
            raise ParameterError(f"token_capacity is {self.token_capacity}; it must be at least 1")

    def nominal_density(self, length_tokens: int) -> float:
        """Entries kept of the prompt's."""
        return min(1.0, self.token_capacity / length_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamingLLM:
    """Each step reads the first tokens and the most recent ones (StreamingLLM, arXiv 2309.17453)."""

    name: ClassVar[str] = "streaming_llm"
    phase: ClassVar[Phase] = Phase.DECODE
    budget_field: ClassVar[str] = "token_budget"
    select: ClassVar[str] = "sparsekernels.methods.streaming_llm:select"
    version: ClassVar[str] = "1"

    token_budget: int
    """Tokens that a step reads: sinks, and recent ones with its own."""
    sink_size: int = 4
    """First tokens, which are always read (attention sinks)."""

    def __post_init__(self) -> None:
        if self.sink_size < 0:
            raise ParameterError(f"sink_size is {self.sink_size}; it must be at least 0")
        if self.token_budget <= self.sink_size:
            raise ParameterError(f"token_budget is {self.token_budget}; it must exceed sink_size ({self.sink_size})")

    def nominal_density(self, length_tokens: int) -> float:
        """Tokens read of the prompt's."""
        return min(1.0, self.token_budget / length_tokens)
