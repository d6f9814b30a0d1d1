"""The package's own tests: what any method and any task must hold."""

from __future__ import annotations

import pytest
import torch
from frontier_example.a_shape import AShape
from frontier_example.ledger import LedgerTask
from sparsekernels.parameters import METHODS, ParameterError, parse_method
from sparsekernels.prefill import select

from tasks.registry import get_task


@pytest.mark.parametrize("length", [1, 16, 100, 257])
def test_the_selection_keeps_the_rules_and_the_promised_density(length: int) -> None:
    q, k = torch.randn(length, 4, 8), torch.randn(length, 2, 8)
    method = AShape(local_blocks=2)
    selection = select(q, k, method)
    selection.validate([length])
    blocks = selection.counts[:, 0].tolist()
    assert blocks == [min(row + 1, 4) for row in range(len(blocks))]
    assert abs(float(selection.density()) - method.nominal_density(length)) < 0.12


def test_the_entry_points_are_found() -> None:
    assert METHODS["a_shape"] is AShape
    assert METHODS.plugin("a_shape") == "frontier-example-plugin 0.3.0"
    assert isinstance(get_task("ledger"), LedgerTask)
    with pytest.raises(ParameterError, match="block_size is 24"):
        parse_method("a_shape", {"local_blocks": 2, "block_size": 24})
