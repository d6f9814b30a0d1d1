"""Streaming and chunked thresholds, end rows and key lists against brute force on every prefix."""

from __future__ import annotations

import pytest
import torch
from sparsekernels.sparsek.chunked import StreamPattern, chunked_pattern, streaming_pattern
from sparsekernels.sparsek.definition import gates_and_kept
from sparsekernels.sparsek.operator import gates_from_threshold, threshold
from sparsekernels.sparsek.pattern import Budget, candidates, causal_pattern, strip_mask
from sparsekernels.sparsek.streaming import NEVER, StreamingThreshold
from torch import Tensor


def streams(count: int, steps: int, seed: int = 0) -> Tensor:
    """Score streams of mixed scale, some with many ties."""
    draw = torch.Generator().manual_seed(seed)
    scales = torch.tensor([0.03, 0.3, 1.0, 3.0, 10.0]).repeat(count)[:count, None].double()
    found = torch.randn(count, steps, generator=draw, dtype=torch.float64) * scales
    found[::4] = (found[::4] / scales[::4] * 3).round() * scales[::4] / 3
    return found


def prefix_gates(scores: Tensor, tau: Tensor) -> Tensor:
    """[H, T, T] gates of every prefix."""
    visible = torch.ones(scores.shape[1], scores.shape[1], dtype=torch.bool).tril()
    return gates_from_threshold(scores[:, None].expand(-1, scores.shape[1], -1), tau, visible)


@pytest.mark.parametrize("form", ["streaming", "chunked"])
@pytest.mark.parametrize("k", [1, 7, 40])
def test_every_prefix_matches_the_sort_solver(form: str, k: int) -> None:
    scores = streams(10, 300)
    visible = torch.ones(300, 300, dtype=torch.bool).tril()
    exact = threshold(scores[:, None], k, visible=visible)
    found: StreamPattern = streaming_pattern(scores, k) if form == "streaming" else chunked_pattern(scores, k, chunk=48)
    assert bool((found.thresholds.isinf() == exact.isinf()).all())
    assert float((prefix_gates(scores, found.thresholds) - prefix_gates(scores, exact)).abs().max()) < 3.9e-13


@pytest.mark.parametrize("form", ["streaming", "chunked"])
def test_thresholds_never_fall(form: str) -> None:
    scores = streams(10, 500, seed=1)
    run = streaming_pattern if form == "streaming" else chunked_pattern
    for k in (1, 20, 100):
        tau = run(scores, k).thresholds[:, k:]
        assert bool((tau.diff(dim=1) >= -1e-12).all())


def test_chunked_deaths_equal_streaming_deaths_also_under_ties() -> None:
    scores = streams(10, 500, seed=2)
    for chunk in (64, 1000):
        assert torch.equal(chunked_pattern(scores, 33, chunk=chunk).deaths, streaming_pattern(scores, 33).deaths)


def test_fractional_counts() -> None:
    scores = streams(8, 400, seed=3)
    found = chunked_pattern(scores, 25, chunk=64)
    gates = prefix_gates(scores, found.thresholds)
    clear = ~((gates - 0).abs() < 1e-9).logical_xor(gates == 0).any(-1) & ~((gates - 1).abs() < 1e-9).any(-1)
    want = ((gates > 1e-9) & (gates < 1 - 1e-9)).sum(-1)
    for pattern in (found, streaming_pattern(scores, 25)):
        assert bool((pattern.num_fractional == want)[clear].all())


def test_each_score_is_popped_at_most_twice() -> None:
    draw = torch.Generator().manual_seed(4)
    heaps = StreamingThreshold(64)
    for score in torch.randn(5000, generator=draw).tolist():
        heaps.push(score)
    assert heaps.num_pops <= 2 * 5000
    assert heaps.size < 1000


@pytest.mark.parametrize("chunk", [None, 37])
@pytest.mark.parametrize("sinks", [0, 4])
def test_strip_mask_equals_brute_force(chunk: int | None, sinks: int) -> None:
    for seed in range(3):
        scores = streams(2, 300, seed=seed)
        for kept in (0, 1, 13, 64):
            budget = Budget(window=16, kept=kept, sinks=sinks)
            pattern = causal_pattern(scores, budget, chunk=chunk)
            strips = strip_mask(pattern.ends, budget.window, torch.arange(300))
            _, want = gates_and_kept(scores, budget)
            rows = torch.arange(300)
            forced = (rows[None] < sinks) & (rows[:, None] - rows[None] >= budget.window)
            assert torch.equal(strips, want | forced)


def test_row_never_sees_more_than_the_budget() -> None:
    budget = Budget(window=16, kept=20, sinks=4)
    pattern = causal_pattern(streams(5, 300), budget)
    strips = strip_mask(pattern.ends, 16, torch.arange(300))
    assert int(strips.sum(-1).max()) == 24 == budget.slots - 16


@pytest.mark.parametrize("row_block", [1, 16, 50])
def test_key_lists_hold_exactly_the_keys_that_some_row_of_the_block_sees(row_block: int) -> None:
    budget = Budget(window=16, kept=20, sinks=3)
    pattern = causal_pattern(streams(3, 211), budget)
    strips = strip_mask(pattern.ends, 16, torch.arange(211))
    lists = candidates(pattern, 16, row_block)
    for block in range(-(-211 // row_block)):
        keys, real = lists.of_block(block)
        for head in range(3):
            want = strips[head, block * row_block : (block + 1) * row_block].any(0).nonzero().flatten()
            assert keys[head][real[head]].tolist() == want.tolist()
            assert len(want) <= 20 + 3 + row_block - 1


def test_survivors_never_end_and_losers_end_after_the_window() -> None:
    budget = Budget(window=16, kept=20)
    pattern = causal_pattern(streams(3, 211), budget)
    assert int((pattern.ends[:, : 211 - 16] == NEVER).sum(-1).max()) == 20
    assert bool((pattern.ends >= torch.arange(211) + 16).all())


def test_short_sequences_see_everything() -> None:
    pattern = causal_pattern(streams(3, 10), Budget(window=16, kept=4, sinks=2))
    assert bool((pattern.ends == NEVER).all())
    assert bool(pattern.thresholds.isinf().all())
    with pytest.raises(ValueError, match="window 0"):
        Budget(window=0, kept=3)
