"""Targets become parameters, and the density policy is explicit."""

from __future__ import annotations

import pytest
import torch
from sparsekernels import calibration, prefill
from sparsekernels.kvcache import contiguous
from sparsekernels.parameters import AdaSnapKV, BlockSparse, FlexPrefill, Quest, SnapKV, VerticalSlash

torch.set_num_threads(1)


@pytest.mark.parametrize("row_block", [16, 64])
@pytest.mark.parametrize(("rows", "length"), [(1, 1), (60, 100), (130, 130)])
def test_block_sparse_density_is_known_beforehand(rows: int, length: int, row_block: int) -> None:
    method = BlockSparse(top_blocks=row_block // 16 + 3, row_block=row_block)
    selection = prefill.select(torch.randn(rows, 2, 8), torch.randn(length, 1, 8), method)
    known = calibration.analytic_density(method, rows, length)
    assert known == pytest.approx(float(selection.density()))


@pytest.mark.parametrize(
    ("compression", "paper"), [(20, 26), (15, 35), (10, 53), (7.5, 71), (5, 108), (3, 188), (2, 300)]
)
def test_block_sparse_targets_match_the_published_grid_at_16k(compression: float, paper: int) -> None:
    method = calibration.block_sparse_for(BlockSparse(top_blocks=8), 1 / compression, 16384)
    assert abs(method.top_blocks - paper) <= 1


def test_quest_and_snapkv_budgets_are_shares_of_the_length() -> None:
    assert calibration.quest_for(Quest(token_budget=16), 1 / 20, 32768).token_budget == 1632
    assert calibration.kept_for(SnapKV(token_capacity=200), 1 / 20, 16384).token_capacity == 819
    assert calibration.kept_for(AdaSnapKV(token_capacity=200), 0.001, 16384).token_capacity == 133


def test_flexprefill_grows_its_budget_where_no_coverage_is_sparse_enough() -> None:
    def measure(method: VerticalSlash | FlexPrefill) -> float:
        assert isinstance(method, FlexPrefill)
        return 0.9 if method.alpha else method.min_budget / 300

    base = FlexPrefill(alpha=0.9, min_budget=20, sink_size=2, local_size=4)
    assert calibration.flexprefill_for(base, 0.5, 300, measure).min_budget == 20
    grown = calibration.flexprefill_for(base, 0.5, 300, measure, grow=True)
    assert (grown.alpha, grown.min_budget) == (0.0, 150)


def test_vertical_slash_is_bisected_on_the_input() -> None:
    g = torch.Generator().manual_seed(0)
    q, k = torch.randn(300, 2, 16, generator=g), torch.randn(300, 1, 16, generator=g)

    def measure(method: prefill.PrefillMethod) -> float:
        return float(prefill.select(q, k, method).density())

    base = VerticalSlash(vertical_size=4, slash_size=4, sink_size=2, local_size=4)
    method = calibration.vertical_slash_for(base, 0.6, 300, measure)
    assert measure(method) <= 0.6
    wider = VerticalSlash(
        vertical_size=method.vertical_size + 1, slash_size=method.slash_size + 1, sink_size=2, local_size=4
    )
    assert measure(wider) > 0.6
    flex = calibration.flexprefill_for(
        FlexPrefill(alpha=0.9, min_budget=100, sink_size=2, local_size=4), 0.5, 300, measure
    )
    assert flex.alpha == 0
    assert 4 <= flex.min_budget < 100
    loose = calibration.flexprefill_for(
        FlexPrefill(alpha=0.0, min_budget=4, sink_size=2, local_size=4), 0.9, 300, measure
    )
    assert loose.alpha > 0
    assert measure(loose) <= 0.9


@pytest.mark.parametrize(
    "method", [FlexPrefill(alpha=1.0, min_budget=64), FlexPrefill(alpha=0.2, min_budget=150)], ids=["alpha", "budget"]
)
def test_flexprefill_at_its_full_budget_is_dense_and_known_to_be(method: FlexPrefill) -> None:
    q, k = torch.randn(150, 2, 16), torch.randn(150, 1, 16)
    assert calibration.analytic_density(method, 150, 150) == 1.0
    assert float(prefill.select(q, k, method).density()) == 1.0


def test_dense_above_is_explicit_and_recorded() -> None:
    q, k, v = torch.randn(150, 2, 16), torch.randn(150, 1, 16), torch.randn(150, 1, 16)
    method = BlockSparse(top_blocks=6)
    sparse = prefill.sparse_prefill(q, contiguous(k, v), method, length=150, executor="reference")
    kept = prefill.sparse_prefill(q, contiguous(k, v), method, length=150, executor="reference", dense_above=0.99)
    dense = prefill.sparse_prefill(q, contiguous(k, v), method, length=150, executor="reference", dense_above=0.5)
    assert not sparse.ran_dense
    assert torch.equal(sparse.out, kept.out)
    assert dense.ran_dense
    assert float(dense.density()) == 1.0
    expected = torch.nn.functional.scaled_dot_product_attention(
        q.transpose(0, 1), k.transpose(0, 1).expand(2, -1, -1), v.transpose(0, 1).expand(2, -1, -1), is_causal=True
    )
    assert torch.allclose(dense.out, expected.transpose(0, 1), atol=1e-5)
