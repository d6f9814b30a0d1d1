"""The scale benchmark in small: its store is filled rightly, and a viewer reads what a recount finds."""

from __future__ import annotations

from benchmarks.dashboard_scale import run


def test_the_benchmark_fills_measures_and_agrees_with_a_recount(store_url: str) -> None:
    measured = run(store_url, 120, 100, num_refreshes=5)
    assert measured.num_cells == 120
    assert measured.num_outcomes == 120 * 100 - 2 * 64 * 50
    assert measured.attach_seconds > 0
    assert measured.store_share <= 0.02
    again = run(store_url, 120, 100, num_refreshes=2)
    assert again.num_outcomes == measured.num_outcomes
