"""How good was the ETA? Backtest on a finished campaign's own record.

    PYTHONPATH=.:kernels python benchmarks/eta_backtest.py --store URL CAMPAIGN [--json]

For each share of the work done, the estimate is made from the outcomes recorded by then alone, as `frontier watch`
makes it, and held against what the rest really took. Engine loads lie before the first outcome and are left out. Which
requests were in flight at that moment, and since when, is taken from their later outcomes; `watch` asks the workers.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

import sqlalchemy as sa  # noqa: E402

from orchestrator.cli.options import store_url  # noqa: E402
from orchestrator.domain.cost_correction import Kind, Observation  # noqa: E402
from orchestrator.domain.eta import WorkLeft, estimate, rough_seconds  # noqa: E402
from orchestrator.store.schema import cells, outcomes  # noqa: E402
from orchestrator.store.session import Store, open_store  # noqa: E402
from orchestrator.store.views import find_campaign  # noqa: E402

SHARES = (0.1, 0.25, 0.5, 0.75)


@dataclass(frozen=True, slots=True)
class Done:
    """One recorded sample."""

    at: float
    kind: Kind
    seconds: float
    """In the engine, its share of waiting in the batch included."""
    predicted: float
    """Any unit that is the same for all samples: here tokens of prompt and output limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """An estimate made when `share` of the samples were recorded."""

    share: float
    predicted_seconds: float
    low_seconds: float
    high_seconds: float
    actual_seconds: float
    error_of_total: float
    """Of the whole run, from its first sample to its last."""
    error_of_rest: float
    covered: bool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("campaign")
    parser.add_argument("--store")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with open_store(store_url(arguments.store), create=False) as store:
        points = backtest(read_record(store, arguments.campaign))
    if arguments.json:
        print(json.dumps([asdict(point) for point in points], indent=1))
        return
    for point in points:
        print(
            f"after {point.share:4.0%}: {point.predicted_seconds:8.1f} s predicted "
            f"({point.low_seconds:.1f} to {point.high_seconds:.1f}), {point.actual_seconds:8.1f} s taken; "
            f"error {point.error_of_total:+.1%} of the run, {point.error_of_rest:+.1%} of the rest"
        )


def read_record(store: Store, campaign: str) -> list[Done]:
    """All outcomes in the order in which they were recorded."""
    columns = ("model_name", "length_tokens", "method_label", "budget", "task_label", "max_output_tokens")
    with store.read() as connection:
        query = (
            sa.select(outcomes.c.recorded_at, outcomes.c.seconds_total, *(cells.c[name] for name in columns))
            .join(cells, cells.c.id == outcomes.c.cell_id)
            .where(cells.c.campaign_id == find_campaign(connection, campaign))
            .order_by(outcomes.c.recorded_at)
        )
        return [_done(row) for row in connection.execute(query)]


def _done(row: sa.Row[tuple[object, ...]]) -> Done:
    kind = Kind(
        model=row.model_name,
        length_tokens=row.length_tokens,
        method=f"{row.method_label} {row.budget}".strip(),
        task=row.task_label,
    )
    predicted = rough_seconds(row.length_tokens, row.max_output_tokens)
    return Done(at=row.recorded_at, kind=kind, seconds=row.seconds_total, predicted=predicted)


def backtest(record: Sequence[Done]) -> list[Point]:
    """The estimates after each of `SHARES`. Raises SystemExit for a record too short to tell."""
    if len(record) < 20 or record[-1].at <= record[0].at:
        sys.exit(f"{len(record)} outcomes are too few for a backtest")
    begin = min(done.at - done.seconds for done in record[: max(1, len(record) // 20)])
    return [_point(record, share, begin) for share in SHARES]


def _point(record: Sequence[Done], share: float, begin: float) -> Point:
    number = max(1, int(share * len(record)))
    seen, rest = record[:number], record[number:]
    now, end = seen[-1].at, record[-1].at
    begun = [now - (done.at - done.seconds) for done in rest if done.at - done.seconds < now]
    in_flight = (sum(done.seconds for done in seen) + sum(begun)) / max(now - begin, 1e-9)
    scale = sum(done.seconds for done in seen) / sum(done.predicted for done in seen)
    found = estimate(
        _left(rest, scale), _observations(seen, scale), num_gpus=in_flight, use=1.0, begun_seconds=sum(begun)
    )
    actual = end - now
    return Point(
        share=share,
        predicted_seconds=found.seconds,
        low_seconds=found.low_seconds,
        high_seconds=found.high_seconds,
        actual_seconds=actual,
        error_of_total=(found.seconds - actual) / (end - begin),
        error_of_rest=(found.seconds - actual) / max(actual, 1e-9),
        covered=found.low_seconds <= actual <= found.high_seconds,
    )


def _left(rest: Sequence[Done], scale: float) -> list[WorkLeft]:
    groups: dict[Kind, list[Done]] = defaultdict(list)
    for done in rest:
        groups[done.kind].append(done)
    return [
        WorkLeft(kind=kind, num_samples=len(group), predicted_seconds=scale * sum(d.predicted for d in group))
        for kind, group in groups.items()
    ]


def _observations(seen: Sequence[Done], scale: float) -> list[Observation]:
    groups: dict[Kind, list[Done]] = defaultdict(list)
    for done in seen:
        groups[done.kind].append(done)
    return [
        Observation(
            kind=kind,
            num_samples=len(group),
            predicted_seconds=scale * sum(d.predicted for d in group),
            observed_seconds=sum(d.seconds for d in group),
        )
        for kind, group in groups.items()
    ]


if __name__ == "__main__":
    main()
