"""The forecast from a campaign's own record."""

from __future__ import annotations

import pytest

from orchestrator.dashboard.forecast import CellRecord, by_speed, forecast
from orchestrator.domain.cost_correction import Kind


def record(length: int, done: int, left: int, seconds: float) -> CellRecord:
    return CellRecord(
        kind=Kind(model="m", length_tokens=length, method="dense", task="t"),
        num_left=left,
        num_recorded=done,
        seconds_sum=done * seconds,
        predicted_seconds=float(length),
    )


def test_what_was_seen_is_expected_again() -> None:
    """100 samples of 2 s each, 4 at a time, are 50 s; the true time lies within the interval."""
    eta = forecast([record(1024, 200, 100, 2.0)], num_in_flight=4)
    assert eta is not None
    assert eta.low_seconds < 50 < eta.high_seconds
    assert eta.high_seconds / eta.low_seconds < 4


def test_longer_prompts_still_to_come_are_expected_to_take_longer() -> None:
    """Twice the length took twice as long so far; four times the length is expected to take about four times."""
    seen = [record(1024, 100, 0, 1.0), record(2048, 100, 0, 2.0)]
    eta = forecast([*seen, record(4096, 0, 100, 0.0)], num_in_flight=1)
    assert eta is not None
    assert eta.low_seconds < 400 < eta.high_seconds


def test_more_of_the_record_narrows_the_interval() -> None:
    narrow = forecast([record(1024, 1000, 100, 2.0)], num_in_flight=1)
    wide = forecast([record(1024, 10, 100, 2.0)], num_in_flight=1)
    assert narrow is not None
    assert wide is not None
    assert narrow.high_seconds / narrow.low_seconds < wide.high_seconds / wide.low_seconds


@pytest.mark.parametrize(
    ("records", "in_flight"),
    [
        ([], 4.0),
        ([record(1024, 2, 100, 2.0)], 4.0),
        ([record(1024, 200, 100, 2.0)], 0.0),
        ([record(1024, 200, 9, 0.0)], 4),
    ],
)
def test_too_little_knowledge_gives_no_forecast(records: list[CellRecord], in_flight: float) -> None:
    assert forecast(records, in_flight) is None


def test_speed_alone_bounds_the_time_by_its_slowest_and_fastest_third() -> None:
    recorded = (0, 10, 20, 40, 60, 70, 80)
    ticks = [{"at": float(i), "num_recorded": n} for i, n in enumerate(recorded)]
    eta = by_speed(100, ticks)
    assert eta is not None
    assert (eta.low_seconds, eta.high_seconds) == (pytest.approx(5.0), pytest.approx(10.0))
    assert by_speed(100, ticks[:3]) is None
    assert by_speed(100, [{**tick, "num_recorded": 5} for tick in ticks]) is None
