"""What the control plane costs: the production loop, real Ray actors, the real store, engines that do nothing.

    PYTHONPATH=.:kernels python benchmarks/control_plane.py [--samples 1000000] [--workers 64] [--store both]

Prints, for SQLite and for a PostgreSQL server that it starts itself: orchestrator time and CPU per sample (p50 over
rounds), its CPU and memory, the samples a second, and how long a resume takes to plan with half of the work done.
Everything shares this machine's cores, workers included, so samples a second is a lower bound.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]
os.environ.setdefault("RAY_raylet_start_wait_time_s", "300")
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "kernels"), os.environ.get("PYTHONPATH", "")])

import sqlalchemy as sa  # noqa: E402

from benchmarks.timed_pool import TimedPool  # noqa: E402
from orchestrator.domain.grid import Cell  # noqa: E402
from orchestrator.domain.placement import Node  # noqa: E402
from orchestrator.scheduler.campaign import take_campaign  # noqa: E402
from orchestrator.scheduler.loop import CampaignLoop  # noqa: E402
from orchestrator.scheduler.ray_pool import RayPool  # noqa: E402
from orchestrator.scheduler.settings import LoopSettings  # noqa: E402
from orchestrator.scheduler.simulation.faults import FaultTrace  # noqa: E402
from orchestrator.scheduler.simulation.sim_clock import SimClock  # noqa: E402
from orchestrator.scheduler.simulation.sim_pool import SimPool  # noqa: E402
from orchestrator.scheduler.simulation.sim_worker import SampleTime  # noqa: E402
from orchestrator.store.campaigns import NewCampaign, Settings, create_campaign  # noqa: E402
from orchestrator.store.plan import load_plan, remaining  # noqa: E402
from orchestrator.store.session import Store, open_store  # noqa: E402
from workers.engine import EngineSpec  # noqa: E402
from workers.protocol import TaskOrder  # noqa: E402

NAME = "control-plane"
SAMPLES_A_CELL = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One run on one store."""

    store: str
    samples: int
    workers: int
    start_seconds: float
    """Until every worker had reported itself ready."""
    run_seconds: float
    samples_per_second: float
    milliseconds_per_sample_p50: float
    """Wall clock of a round outside of its waits, over the records (samples and ends of shards) that it wrote."""
    cpu_milliseconds_per_sample_p50: float
    orchestrator_cores: float
    orchestrator_peak_mib: float
    resume_seconds: float
    """Taking the half-done campaign over and knowing what is left, in a new connection."""
    store_mib: float
    outages: int
    """Times that the store was away (a server that is starved of CPU ends idle transactions)."""
    repeated_attempts: int
    """Attempts beyond one a shard: no worker is lost here, so each is work done for nothing."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--store", choices=("sqlite", "postgresql", "both"), default="both")
    parser.add_argument("--pool", choices=("ray", "null"), default="ray", help="null: no Ray, workers cost nothing")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}", file=sys.stderr)
    kinds = ("sqlite", "postgresql") if arguments.store == "both" else (arguments.store,)
    if len(kinds) == 1:
        found = [asdict(measure(kinds[0], arguments.samples, arguments.workers, arguments.pool))]
    else:
        found = [row for kind in kinds for row in measure_apart(kind, arguments)]
    if arguments.json:
        print(json.dumps(found, indent=1))
        return
    for row in found:
        for key, value in row.items():
            print(f"{key:34} {value:,.3f}" if isinstance(value, float) else f"{key:34} {value}")
        print()


def measure_apart(kind: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """In a process of its own: peak memory is a process's, and would else be the larger of both stores."""
    options = ["--samples", str(arguments.samples), "--workers", str(arguments.workers), "--pool", arguments.pool]
    command = [sys.executable, __file__, "--store", kind, "--json", *options]
    printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    rows: list[dict[str, Any]] = json.loads(printed[printed.index("[\n {") :])  # Ray may print before it
    return rows


def measure(kind: str, num_samples: int, num_workers: int, pool_name: str) -> Measured:
    with store_url(kind) as url, open_store(url) as store:
        cells = make_cells(num_samples)
        create_campaign(
            store,
            NewCampaign(name=NAME, cells=cells, spec={}, engine_name="fake", settings=Settings(samples_per_shard=100)),
        )
        total = sum(cell.num_samples for cell in cells)
        clock = SimClock() if pool_name == "null" else time.monotonic
        pool = TimedPool(null_pool(num_workers, clock) if isinstance(clock, SimClock) else ray_pool(num_workers))
        try:
            return _run(kind, url, store, pool, total, num_workers, clock)
        finally:
            pool.close()


def ray_pool(num_workers: int) -> RayPool:
    return RayPool(num_workers, cpus_per_worker=0.01)


def null_pool(num_workers: int, clock: SimClock) -> SimPool:
    """Workers that take 20 ms of simulated time a sample and nothing else: what is left is the loop and the store."""
    nodes = [Node(name=f"n{i}", num_gpus=1, num_free=1) for i in range(num_workers)]
    return SimPool(
        nodes, FaultTrace(), clock, time_of=lambda _: SampleTime(0.02, 1), load_seconds=lambda _: 0.0, step_seconds=1.0
    )


def make_cells(num_samples: int) -> list[Cell]:
    engine = EngineSpec(model="none", max_model_len=128, max_in_flight=64)
    return [
        Cell(
            key=f"cell-{position}",
            model_name="none",
            engine=engine,
            task=TaskOrder(name="synthetic", version=1, parameters={}),
            task_label="synthetic",
            length_tokens=32,
            seed=position,
            num_samples=SAMPLES_A_CELL,
            max_output_tokens=16,
        )
        for position in range(-(-num_samples // SAMPLES_A_CELL))
    ]


def _run(
    kind: str, url: str, store: Store, pool: TimedPool, total: int, num_workers: int, clock: Callable[[], float]
) -> Measured:
    tick = 0.0 if isinstance(clock, SimClock) else 0.2
    settings = LoopSettings(canary_seconds=0.0, lease_seconds=600.0, tick_seconds=tick, outage_seconds=7200.0)
    fence = take_campaign(store, NAME, settings)
    loop = CampaignLoop(store, fence, load_plan(store, fence), pool, settings, clock)
    loop.start()
    began = time.monotonic()
    start_seconds = resume_seconds = 0.0
    wall, cpu = [], []
    cpu_before, done = _cpu_seconds(), 0
    going = True
    while going:
        waited, started, thread = pool.waited, time.monotonic(), time.thread_time()
        going = loop.tick()
        busy = time.monotonic() - started - (pool.waited - waited)
        recorded = sum(member.acknowledged for member in loop.members) - done
        if recorded > 0:
            wall.append(busy / recorded)
            cpu.append((time.thread_time() - thread) / recorded)
            done += recorded
        if not start_seconds and sum(m.is_up for m in loop.members) == num_workers:
            start_seconds = time.monotonic() - began
        if not resume_seconds and done >= total / 2:
            resume_seconds = resume(url)
    run_seconds = time.monotonic() - began
    return Measured(
        store=kind,
        samples=total,
        workers=num_workers,
        start_seconds=start_seconds,
        run_seconds=run_seconds,
        samples_per_second=total / run_seconds,
        milliseconds_per_sample_p50=1000 * statistics.median(wall),
        cpu_milliseconds_per_sample_p50=1000 * statistics.median(cpu),
        orchestrator_cores=(_cpu_seconds() - cpu_before) / run_seconds,
        orchestrator_peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        resume_seconds=resume_seconds,
        store_mib=_store_mib(store),
        outages=_num_outages(store),
        repeated_attempts=_num_repeated(store),
    )


def resume(url: str) -> float:
    """What a new orchestrator does before its first order, short of taking the campaign away from this one."""
    began = time.monotonic()
    with open_store(url, create=False) as store, store.read() as connection:
        from orchestrator.store.campaigns import Fence
        from orchestrator.store.plan import open_of_workers
        from orchestrator.store.views import find_campaign

        campaign_id = find_campaign(connection, NAME)
        load_plan(store, Fence(campaign_id, 0))
        remaining(connection, campaign_id)
        open_of_workers(connection, campaign_id)
    return time.monotonic() - began


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _num_outages(store: Store) -> int:
    with store.read() as connection:
        from orchestrator.store.schema import events

        return sum(
            kind == "store_back" for (kind,) in connection.execute(events.select().with_only_columns(events.c.kind))
        )


def _num_repeated(store: Store) -> int:
    from orchestrator.store.schema import attempts, shards

    with store.read() as connection:
        made, wanted = (
            connection.execute(sa.select(sa.func.count()).select_from(t)).scalar_one() for t in (attempts, shards)
        )
    return int(made - wanted)


def _store_mib(store: Store) -> float:
    from orchestrator.store.dialect import database_bytes

    with store.read() as connection:
        return database_bytes(connection) / 2**20


@contextmanager
def store_url(kind: str) -> Iterator[str]:
    if kind == "sqlite":
        with tempfile.TemporaryDirectory() as folder:
            yield f"sqlite:///{folder}/store"
        return
    from orchestrator.scheduler.chaos.postgres import PostgresServer

    server: Any = PostgresServer()
    try:
        yield server.database()
    finally:
        server.stop()


if __name__ == "__main__":
    main()
