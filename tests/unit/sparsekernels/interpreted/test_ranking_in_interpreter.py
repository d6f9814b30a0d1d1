"""The fused ranking of columns and offsets, in Triton's CPU interpreter, against its definitions."""

from __future__ import annotations

import os
from itertools import product

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("run by test_triton_kernels.py in a process with TRITON_INTERPRET=1", allow_module_level=True)

from sparsekernels.index.order import Covering, top_prefix
from sparsekernels.methods.flexprefill import coverage_counts
from sparsekernels.methods.vertical_slash import force_first
from sparsekernels.ranking import top_mask

torch.set_num_threads(1)


@pytest.mark.parametrize("count", [1, 7, 300, 900, 2000])
def test_top_prefix_ranks_ties_by_position(count: int) -> None:
    scores = (torch.rand(2, 3, 900) * 20).floor()
    got = top_prefix(scores, (count, count), (4, 0))
    for half, forced in ((0, 4), (1, 0)):
        expected = top_mask(force_first(scores[half], forced), count).cumsum(1)
        assert torch.equal(got[half], expected.to(torch.int32))


def covering_scores(kind: str, size: int) -> torch.Tensor:
    """Whole numbers [2, 2, size] whose sums float32 holds exactly, some of them equal."""
    if kind == "heavy":
        return torch.randn(2, 2, size).mul(3).exp().clamp(max=4000).floor()
    return {"random": (torch.rand(2, 2, size) * 20).floor(), "equal": torch.full((2, 2, size), 3.0)}.get(
        kind, torch.zeros(2, 2, size)
    )


@pytest.mark.parametrize("size", [1, 3, 900, 33000])
@pytest.mark.parametrize("kind", ["random", "heavy", "equal", "zeros"])
def test_covering_ranks_as_many_as_the_definition_counts(kind: str, size: int) -> None:
    scores = covering_scores(kind, size)
    num_rows = 1 << int(scores.sum(-1).max()).bit_length()
    cases = ((0.3, 14),) if size > 900 else product((0.0, 0.015625, 0.3, 1.0), (1, size + 3))
    for alpha, min_budget in cases:
        counts = coverage_counts((scores / num_rows).flatten(0, 1), alpha, min_budget).view(2, 2)
        got = top_prefix(scores, Covering(alpha, min_budget, num_rows), (4, 0))
        for half, forced in ((0, 4), (1, 0)):
            expected = top_mask(force_first(scores[half], forced), counts[half]).cumsum(1)
            assert torch.equal(got[half], expected.to(torch.int32)), (alpha, min_budget)


def test_a_coverage_of_one_keeps_everything_however_the_sum_is_rounded() -> None:
    scores = torch.rand(2, 2, 130, generator=torch.Generator().manual_seed(0)) ** 20
    scores = scores / scores.sum(-1, keepdim=True) * (1 + 1e-6)
    assert coverage_counts(scores[0], 1.0, 1).tolist() == [130, 130]
    assert top_prefix(scores, Covering(1.0, 1, 1), (2, 14))[..., -1].unique().tolist() == [130]
