"""The counters of cells, shards and attempts, changed in the transaction that writes the outcomes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from orchestrator.store.campaigns import Grip
from orchestrator.store.leases import OpenAttempt
from orchestrator.store.schema import attempts, cells, shards
from workers.protocol import SampleOutcome

CELL_COUNTERS = (
    "num_recorded",
    "num_correct",
    "num_incorrect",
    "num_unanswered",
    "num_unscored",
    "num_failed",
    "num_scored",
    "num_measured",
    "num_density_decode",
    "score_sum",
    "score_square_sum",
    "density_prefill_sum",
    "density_decode_sum",
    "kv_kept_sum",
    "prompt_tokens",
    "cached_tokens",
    "output_tokens",
    "seconds_total_sum",
    "seconds_to_first_token_sum",
    "seconds_decode_sum",
)

Pairs = Sequence[tuple[SampleOutcome, OpenAttempt]]


def contribution(o: Any) -> dict[str, float]:
    """What one outcome adds to its cell's counters; `o` is an outcome or its row."""
    verdict = "unscored" if getattr(o, "failure", None) else o.verdict
    failed = getattr(o, "failure", None) is not None or getattr(o, "failure_kind", None) is not None
    score = None if failed else o.score
    measured = o.density_prefill is not None
    decoded = o.density_decode is not None and o.num_decode_steps > 0
    return {
        "num_recorded": 1,
        f"num_{verdict}": 1,
        "num_failed": int(failed),
        "num_scored": int(score is not None),
        "num_measured": int(measured),
        "num_density_decode": int(decoded),
        "score_sum": score or 0.0,
        "score_square_sum": (score or 0.0) ** 2,
        "density_prefill_sum": o.density_prefill or 0.0,
        "density_decode_sum": (o.density_decode or 0.0) if decoded else 0.0,
        "kv_kept_sum": ((1.0 if o.kv_kept is None else o.kv_kept) if measured else 0.0),
        "prompt_tokens": o.num_prompt_tokens,
        "cached_tokens": o.num_cached_tokens,
        "output_tokens": o.num_output_tokens,
        "seconds_total_sum": o.seconds_total,
        "seconds_to_first_token_sum": o.seconds_to_first_token,
        "seconds_decode_sum": o.seconds_decode,
    }


def add_to_cells(connection: sa.Connection, grip: Grip, new: Pairs) -> None:
    totals: dict[int, dict[str, float]] = defaultdict(lambda: dict.fromkeys(CELL_COUNTERS, 0))
    for outcome, attempt in new:
        counters = totals[attempt.cell_id]
        for name, value in contribution(outcome).items():
            counters[name] += value
    change_cells(connection, totals, now=grip.now)


def change_cells(connection: sa.Connection, totals: dict[int, dict[str, float]], now: float | None = None) -> None:
    """Add the totals to the cells' counters; `now` also moves the times of the first and last outcome."""
    if not totals:
        return
    values: dict[str, Any] = {name: cells.c[name] + sa.bindparam(f"d_{name}") for name in CELL_COUNTERS}
    if now is not None:
        values["first_recorded_at"] = sa.func.coalesce(cells.c.first_recorded_at, now)
        values["last_recorded_at"] = now
    rows = [{"cell": cell, **{f"d_{k}": v for k, v in totals[cell].items()}} for cell in sorted(totals)]
    connection.execute(sa.update(cells).where(cells.c.id == sa.bindparam("cell")).values(**values), rows)


def add_to_shards(connection: sa.Connection, new: Pairs) -> None:
    """Count the outcomes. Progress ends a row of worker losses, except in an attempt that tests single samples."""
    counts = Counter(attempt.shard_id for _, attempt in new)
    tested = {attempt.shard_id for _, attempt in new if attempt.isolated}
    if counts:
        statement = sa.update(shards).where(shards.c.id == sa.bindparam("shard"))
        connection.execute(
            statement.values(
                num_recorded=shards.c.num_recorded + sa.bindparam("n"),
                num_losses=shards.c.num_losses * sa.bindparam("keep", type_=sa.Integer),
            ),
            [{"shard": shard, "n": counts[shard], "keep": int(shard in tested)} for shard in sorted(counts)],
        )


def add_to_attempts(connection: sa.Connection, new: Pairs) -> None:
    counts = Counter(attempt.id for _, attempt in new)
    if counts:
        statement = sa.update(attempts).where(attempts.c.id == sa.bindparam("attempt"))
        connection.execute(
            statement.values(num_recorded=attempts.c.num_recorded + sa.bindparam("n")),
            [{"attempt": attempt, "n": counts[attempt]} for attempt in sorted(counts)],
        )
