"""What a cell is called in tables: its phases, its compression, its model's size."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sparsekernels.parameters import MethodChoice, ParameterError, Phase

from orchestrator.domain.compression import nominal_compression
from orchestrator.domain.known_models import find_known

_SIZE_IN_NAME = re.compile(r"(?<![\d.])(\d+(?:\.\d+)?)\s*([bm])(?![a-z])", re.IGNORECASE)


Wire = Mapping[str, Mapping[str, Any]]
"""The stored form of a method choice: phase → options; empty is dense."""


def phase_label(wire: Wire) -> str:
    """`dense`, `prefill`, `decode`, `compress`, or those that act joined by +."""
    return "+".join(str(phase) for phase in Phase if phase in wire) or "dense"


def cell_compression(wire: Wire, length_tokens: int) -> float | None:
    """Nominal compression where arithmetic gives one: 1 for dense, the method's own for a single phase, else None."""
    if not wire:
        return 1.0
    try:
        choice = MethodChoice.from_wire(wire)
    except ParameterError:
        return None
    acting = [method for phase in Phase if (method := getattr(choice, phase)) is not None]
    return nominal_compression(acting[0], length_tokens) if len(acting) == 1 else None


def parameters_b(model: str) -> float | None:
    """Parameters in 10⁹: from the model's known shape, else from a size in its name (`7B`, `135M`), else None."""
    known = find_known(model)
    if known is not None:
        return known.num_parameters / 1e9
    found = _SIZE_IN_NAME.search(model.rstrip("/").rsplit("/", 1)[-1])
    if found is None:
        return None
    return float(found[1]) / (1.0 if found[2].lower() == "b" else 1000.0)
