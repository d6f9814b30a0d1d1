"""How fast does a dashboard attach and refresh on a large store?

    python benchmarks/dashboard_scale.py --store /tmp/scale.sqlite --cells 8000 --samples 1250

Fills a fresh store with made-up outcomes (counters in step with them), then measures `frontier watch`'s reading:
attach = opening the store, the first snapshot and the first frame; refresh = each further snapshot with its frame.
The store's share is what one viewer's readings take of the time between them. Completions' texts are not written:
they lie in a table that no view reads.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

import sqlalchemy as sa

from orchestrator.cli.options import mask_password, store_url
from orchestrator.dashboard.read import SnapshotSource
from orchestrator.dashboard.reader import STORE_SHARE
from orchestrator.dashboard.render import frame
from orchestrator.dashboard.state import View, ViewState
from orchestrator.domain.grid import Cell
from orchestrator.store.campaigns import NewCampaign, Settings, create_campaign
from orchestrator.store.screen import read_screen
from orchestrator.store.session import Store, open_store
from workers.engine import EngineSpec
from workers.protocol import TaskOrder

CHUNK_ROWS = 100_000
NUM_WORKERS = 64
NUM_ATTACHES = 7
TASKS = 9
METHODS = ("dense", "vertical_slash", "flexprefill", "block_sparse", "snapkv", "ada_snapkv", "quest")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Seconds, on one store."""

    store: str
    num_cells: int
    num_outcomes: int
    fill_seconds: float
    attach_seconds: float
    """Median of several viewers, one after the other."""
    attach_seconds_worst: float
    refresh_seconds: float
    """Median, snapshot and frame."""
    refresh_seconds_worst: float
    store_seconds: float
    """Median time of one reading's transaction and its rows."""
    store_share: float
    """Of the time between two readings."""
    refresh_cpu_seconds: float
    """Median processor time of the viewer for one refresh: what an idle machine would take."""


def grid(num_cells: int, num_samples: int) -> Iterator[Cell]:
    """Cells over four models, four lengths, nine tasks and as many budgets as it takes."""
    for number in range(num_cells):
        rest, task = divmod(number, TASKS)
        rest, model = divmod(rest, 4)
        rest, length = divmod(rest, 4)
        budget, method = divmod(rest, len(METHODS))
        yield Cell(
            key=f"{number:024x}",
            model_name=f"model-{model}",
            engine=EngineSpec(model=f"/models/model-{model}", tensor_parallel=1 << model, max_model_len=133_120),
            task=TaskOrder(name=f"task_{task}", version=1, parameters={"num_queries": 4, "num_keys": 16}),
            task_label=f"family_task{task}",
            length_tokens=16384 << length,
            seed=43,
            num_samples=num_samples,
            method={"decode": {"name": METHODS[method], "token_budget": 64 * (budget + 1)}},
            method_label=METHODS[method],
            budget=f"token_budget={64 * (budget + 1)}",
            max_output_tokens=1024,
        )


FILL = """
INSERT INTO outcomes (cell_id, sample_index, attempt_id, recorded_at, sample_key, prompt_hash, verdict, score,
  extracted, reason, finish_reason, num_prompt_tokens, num_cached_tokens, num_output_tokens, density_prefill,
  density_decode, kv_kept, num_decode_steps, seconds_to_first_token, seconds_decode, seconds_total)
WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :samples)
SELECT c.id, n.i, a.id, 1.7e9 + n.i, '0123456789abcdef' || (c.id * 100000 + n.i), 'fedcba9876543210' || n.i,
  CASE WHEN (n.i * 7 + c.id) % 3 = 0 THEN 'incorrect' ELSE 'correct' END,
  CASE WHEN (n.i * 7 + c.id) % 3 = 0 THEN 0.0 ELSE 1.0 END,
  'answer ' || n.i, '', 'stop', c.length_tokens, 0, 256, 0.1, 0.1, 1.0, 255, 1.5, 3.0, 4.5
FROM cells c CROSS JOIN n
JOIN shards s ON s.cell_id = c.id AND s.first_index = n.i - n.i % :shard
JOIN attempts a ON a.shard_id = s.id
WHERE c.id BETWEEN :first AND :last AND a.closed_at IS NOT NULL
"""
COUNT = """
UPDATE cells SET
  num_recorded = t.n, num_scored = t.n, num_correct = t.good, num_incorrect = t.n - t.good, score_sum = t.score,
  score_square_sum = t.score, seconds_total_sum = t.n * 4.5, output_tokens = t.n * 256
FROM (SELECT cell_id, count(*) AS n, sum(score) AS score, sum(CASE WHEN verdict = 'correct' THEN 1 ELSE 0 END) AS good
  FROM outcomes WHERE cell_id BETWEEN :first AND :last GROUP BY cell_id) AS t WHERE t.cell_id = cells.id
"""
WORKERS = """
INSERT INTO workers (campaign_id, name, pool, engine_key, model_name, state, node, device, started_at, seen_at,
  num_in_flight, num_tokens, kv_use, num_outcomes)
SELECT 1, 'w' || :number, 'ray', engine_key, model_name, 'ready', 'node' || :number, 'NVIDIA H200', 1.7e9, :now,
  16, 100000, 0.5, 1000 FROM cells WHERE id = :cell
"""
ATTEMPTS = """
INSERT INTO attempts (campaign_id, shard_id, worker_id, epoch, num_ordered, num_recorded, isolated, opened_at,
  lease_until, closed_at, ending)
SELECT 1, s.id, 1 + s.id % :workers, 1, s.num_samples, s.num_samples, '[]', 1.7e9, 1.7e9, 1.7e9, 'done'
FROM shards s WHERE s.id > :open
"""
OPEN_ATTEMPTS = """
INSERT INTO attempts (campaign_id, shard_id, worker_id, epoch, num_ordered, isolated, opened_at, lease_until)
SELECT 1, s.id, s.id, 1, s.num_samples, '[]', :now, :now + 60 FROM shards s WHERE s.id <= :workers
"""
LOGS = """
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :rows)
"""


def fill(store: Store, num_cells: int, num_samples: int, shard: int) -> None:
    """A campaign that is nearly complete, with its workers, attempts, events, failures and ticks."""
    cells = list(grid(num_cells, num_samples))
    settings = Settings(samples_per_shard=shard)
    create_campaign(store, NewCampaign(name="scale", cells=cells, spec={"name": "scale"}, settings=settings))
    now = time.time()
    with store.write() as connection:
        for number in range(1, NUM_WORKERS + 1):
            cell = 1 + number * 7 % num_cells
            connection.execute(sa.text(WORKERS), {"number": number, "now": now, "cell": cell})
        connection.execute(sa.text(ATTEMPTS), {"workers": NUM_WORKERS, "open": NUM_WORKERS * 2})
        connection.execute(sa.text(OPEN_ATTEMPTS), {"workers": NUM_WORKERS, "now": now})
    step = max(1, CHUNK_ROWS // num_samples)
    for first in range(1, num_cells + 1, step):
        span = {"first": first, "last": first + step - 1}
        with store.write() as connection:
            connection.execute(sa.text(FILL), {**span, "samples": num_samples, "shard": shard})
            connection.execute(sa.text(COUNT), span)
    _logs(store, now)


def _logs(store: Store, now: float) -> None:
    """Long logs too: 100,000 events, 20,000 failures, and a minute of ticks."""
    tables = {
        "events (campaign_id, at, kind, message) ": ("SELECT 1, :now - i, 'shard_done', 'shard ' || i FROM n", 100_000),
        "failures (campaign_id, at, kind, cell_id, charged, answer, message) ": (
            "SELECT 1, :now - i, 'engine_crash', 1 + i % 100, :yes, 'again', 'process died' FROM n",
            20_000,
        ),
        "ticks (campaign_id, at, num_recorded, num_in_flight) ": (
            "SELECT 1, :now - i, 1000000 - i * 50, 1000 FROM n",
            240,
        ),
    }
    with store.write() as connection:
        for table, (select, rows) in tables.items():
            values = {"now": now, "rows": rows} | ({"yes": True} if ":yes" in select else {})
            connection.execute(sa.text(f"INSERT INTO {table}{LOGS}{select}"), values)
        connection.execute(
            sa.text(
                "UPDATE shards SET state = CASE WHEN id <= :workers THEN 'leased' WHEN id <= 2 * :workers THEN 'ready' "
                "ELSE 'done' END, num_recorded = CASE WHEN id <= 2 * :workers THEN 0 ELSE num_samples END"
            ),
            {"workers": NUM_WORKERS},
        )
        connection.execute(sa.text("UPDATE campaigns SET state = 'running', started_at = :now - 86400"), {"now": now})
    with store.writer.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("ANALYZE"))


def attach_seconds(url: str) -> float:
    """From nothing to the first frame, as a new viewer does it."""
    started = time.perf_counter()
    with open_store(url, create=False) as store:
        frame(SnapshotSource(store, None)(), ViewState(), 200, 60)
    return time.perf_counter() - started


def measure(url: str, fill_seconds: float, num_refreshes: int) -> Measured:
    """Attaches several times, then refreshes."""
    attaches = [attach_seconds(url) for _ in range(NUM_ATTACHES)]
    with open_store(url, create=False) as store:
        source = SnapshotSource(store, None)
        totals, readings, works, names = [], [], [], read_screen(store, None).names
        for number in range(num_refreshes):
            started = time.perf_counter()
            read_screen(store, None, names)
            readings.append(time.perf_counter() - started)
            started, worked = time.perf_counter(), time.process_time()
            snapshot = source()
            frame(snapshot, ViewState(view=list(View)[number % len(View)]), 200, 60)
            totals.append(time.perf_counter() - started)
            works.append(time.process_time() - worked)
        with store.read() as connection:
            counted = connection.scalar(sa.text("SELECT count(*) FROM outcomes"))
        assert counted == snapshot.header.num_recorded, (
            f"{counted} outcomes, counters say {snapshot.header.num_recorded}"
        )
        reading = statistics.median(readings)
        return Measured(
            store=mask_password(url).split(":", 1)[0].split("+")[0],
            num_cells=len(snapshot.cells),
            num_outcomes=counted,
            fill_seconds=fill_seconds,
            attach_seconds=statistics.median(attaches),
            attach_seconds_worst=max(attaches),
            refresh_seconds=statistics.median(totals),
            refresh_seconds_worst=max(totals),
            store_seconds=reading,
            store_share=reading / max(1.0 + reading, statistics.median(totals) / STORE_SHARE),
            refresh_cpu_seconds=statistics.median(works),
        )


def run(url: str, num_cells: int, num_samples: int, *, shard: int = 50, num_refreshes: int = 40) -> Measured:
    """Fills the store at `url` unless it holds the campaign already, then measures."""
    started = time.perf_counter()
    with open_store(url) as store:
        with store.read() as connection:
            there = connection.scalar(sa.text("SELECT count(*) FROM campaigns"))
        if not there:
            fill(store, num_cells, num_samples, shard)
    return measure(url, time.perf_counter() - started, num_refreshes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--store", action="append", required=True, help="A fresh store; may be given several times.")
    parser.add_argument("--cells", type=int, default=8000)
    parser.add_argument("--samples", type=int, default=1250, help="Samples a cell.")
    chosen = parser.parse_args()
    print(f"{platform.platform()}, Python {platform.python_version()}, SQLAlchemy {sa.__version__}")
    for url in chosen.store:
        measured = run(store_url(url), chosen.cells, chosen.samples)
        print(json.dumps({name: getattr(measured, name) for name in Measured.__slots__}, indent=1))


if __name__ == "__main__":
    main()
