"""The executors by name. Chosen out loud: there is no `auto` and no fallback from one to another."""

from __future__ import annotations

from enum import StrEnum


class Executor(StrEnum):
    """Which code runs an attention over a selection."""

    REFERENCE = "reference"
    """Torch, any device: the definition."""
    FLASH = "flash"
    """FlashAttention 3 (Hopper) or 2 (Ampere) over page lists; index building in Triton. CUDA only."""
    TRITON = "triton"
    """Our Triton kernels throughout: any CUDA device, and the CPU under TRITON_INTERPRET=1."""


def parse_executor(name: str) -> Executor:
    """The executor of that name. Raises ValueError listing the valid names."""
    try:
        return Executor(name)
    except ValueError:
        raise ValueError(f"unknown executor {name!r}; known executors: {', '.join(Executor)}") from None
