"""Predictions of engines' work, corrected where the campaign's record says something else entirely."""

from __future__ import annotations

import pytest

from orchestrator.domain.pace import Pace


def run(pace: Pace, *, predicted: float, true_per_predicted: float, until: float, step: float = 10.0) -> None:
    """One engine works from 0 to `until`."""
    now = 0.0
    while now <= until:
        pace.note({"a": max(0.0, predicted - now / true_per_predicted)}, {"a": 1}, now)
        now += step


def test_nothing_seen_changes_nothing() -> None:
    assert Pace().factor("a") == 1.0


def test_a_guess_that_is_far_off_is_corrected_soon() -> None:
    """Ten seconds predicted for hours of work, as for a model of unknown shape."""
    pace = Pace()
    run(pace, predicted=10.0, true_per_predicted=1000.0, until=600.0)
    assert pace.factor("a") == pytest.approx(1000.0, rel=0.7)
    fast = Pace()
    run(fast, predicted=1e6, true_per_predicted=0.2, until=7200.0)
    assert fast.factor("a") == pytest.approx(0.2, rel=0.3)


def test_a_prediction_that_is_about_right_is_kept() -> None:
    pace = Pace()
    run(pace, predicted=1e5, true_per_predicted=1.2, until=20_000.0)
    assert pace.factor("a") == 1.0


@pytest.mark.parametrize("engines", [1, 10, 40])
def test_outcomes_that_come_a_batch_late_shake_no_prediction(engines: int) -> None:
    """Right after the start many engines have worked for a while and told little."""
    pace, late, whole = Pace(), 300.0, engines * 50_000.0
    for now in range(0, 3000, 10):
        done = engines * max(0.0, now - late)
        pace.note({"a": whole - done}, {"a": engines}, float(now))
        assert pace.factor("a") == 1.0, now
