"""How fast and how safely a campaign recovers: every figure of "nothing lost, nothing twice", one part each.

    PYTHONPATH=.:kernels python benchmarks/recovery.py [--part stale poison cluster] [--store both] [--rounds 10]

stale     writes under attempts whose lease has run out: how many were refused
poison    a campaign in which 1 % of the prompts kill the engine: who was quarantined after how many deaths
cluster   two Ray nodes on this machine: seconds from a worker's SIGKILL to a new lease of its samples, from a new
          orchestrator's start (the old one was killed) to its first dispatch, and of a drain after SIGTERM
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import re
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

from orchestrator.domain.grid import Cell  # noqa: E402
from orchestrator.domain.retry import RetryPolicy  # noqa: E402
from orchestrator.scheduler.campaign import run_campaign  # noqa: E402
from orchestrator.scheduler.chaos.cluster import DrillCluster  # noqa: E402
from orchestrator.scheduler.chaos.plan import ChaosPlan  # noqa: E402
from orchestrator.scheduler.chaos.postgres import PostgresServer  # noqa: E402
from orchestrator.scheduler.chaos.report import releases_after, wrong_charges  # noqa: E402
from orchestrator.scheduler.chaos.world import Orchestrators, World  # noqa: E402
from orchestrator.scheduler.inline_pool import InlinePool  # noqa: E402
from orchestrator.scheduler.settings import LoopSettings  # noqa: E402
from orchestrator.store import endings, fleet, leases, outcomes, plan, views  # noqa: E402
from orchestrator.store.campaigns import NewCampaign, Settings, create_campaign, hold, take_over  # noqa: E402
from orchestrator.store.schema import attempts, events, failures, shards, workers  # noqa: E402
from orchestrator.store.session import Store, open_store  # noqa: E402
from orchestrator.store.verify import verify_campaign  # noqa: E402
from workers.protocol import SampleOutcome  # noqa: E402

NAME = "recovery"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--store", choices=("sqlite", "postgresql", "both"), default="both")
    parser.add_argument("--rounds", type=int, default=10, help="kills and takeovers of the cluster part")
    options = parser.parse_args()
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}")
    for part in options.part:
        for kind in ("sqlite", "postgresql") if options.store == "both" else (options.store,):
            with tempfile.TemporaryDirectory(prefix="frontier-recovery-") as folder, _store(kind, folder) as store:
                print(f"{part}, {kind}: {PARTS[part](store, Path(folder), options.rounds)}", flush=True)


@contextmanager
def _store(kind: str, folder: str) -> Iterator[Store]:
    with ExitStack() as stack:
        url = f"sqlite:///{folder}/store.sqlite"
        if kind == "postgresql":
            server = PostgresServer()
            stack.callback(server.stop)
            url = server.database()
        yield stack.enter_context(open_store(url))


def _create(store: Store, cells: Sequence[Cell], shard_samples: int) -> None:
    settings = Settings(samples_per_shard=shard_samples)
    create_campaign(
        store, NewCampaign(name=NAME, cells=cells, spec={"recovery": 1}, engine_name="fake", settings=settings)
    )


def _cells(**changes: object) -> list[Cell]:
    return ChaosPlan.model_validate({"faults": {}, **changes}).grid()


def stale(store: Store, folder: Path, rounds: int) -> str:
    """One batch for each way of being late: the lease ran out, and the shard has been leased again or not."""
    del folder, rounds
    _create(store, _cells(samples=2400, cells=8), 100)
    fence = take_over(store, NAME, "benchmark", ttl_seconds=60.0)
    with store.write() as connection:
        plan.begin(connection, hold(connection, fence))
    with store.write() as connection:
        grip = hold(connection, fence)
        key = str(connection.scalar(sa.select(shards.c.engine_key)))
        worker = fleet.register(connection, grip, name="late", pool="none", engine_key=key, model_name="fake")

        def claim(seconds: float) -> list[leases.Claim]:
            return leases.claim(
                connection,
                grip,
                worker_id=worker,
                engine_key=key,
                num_shards=24,
                lease_seconds=seconds,
                num_losses_allowed=3,
            )

        late = claim(-1.0)
        endings.lose_attempts(connection, grip, leases.expired_attempts(connection, grip).values(), RetryPolicy())
        written = [_outcome(c, index) for c in late for index in c.indices]
        before = outcomes.record(connection, grip, written)
        claim(60.0)
        after = outcomes.record(connection, grip, written)
    refused = before.num_refused + after.num_refused
    recorded = views.campaign_header(store).num_recorded
    return f"{refused} of {2 * len(written)} stale writes refused, {recorded} outcomes recorded"


def _outcome(claim: leases.Claim, index: int) -> SampleOutcome:
    return SampleOutcome(
        attempt_id=claim.attempt_id, shard_id=claim.shard_id, cell_key="", index=index, verdict="correct", score=1.0
    )


def poison(store: Store, folder: Path, rounds: int) -> str:
    """The fake engine dies of a prompt by the prompt alone."""
    del folder, rounds
    _create(store, _cells(samples=2000, cells=4, engine={"seconds": 0.005, "poison_share": 0.01}), 50)
    quick = LoopSettings(
        tick_seconds=0.02, look_seconds=0.1, stall_seconds=5.0, policy=RetryPolicy(first_delay_seconds=0.1)
    )
    result = run_campaign(store, NAME, InlinePool(2), settings=quick)
    with store.read() as connection:
        told = connection.scalars(sa.select(failures.c.message).where(failures.c.answer == "quarantine")).all()
    deaths = [int(found.group(1)) for text in told if (found := re.search(r"after (\d+) engine deaths", text))]
    proof = verify_campaign(store)
    return (
        f"{result.header.state}, {proof.num_recorded} of {proof.num_samples} recorded, {len(deaths)} quarantined "
        f"after at most {max(deaths)} engine deaths, {len(wrong_charges(store))} healthy samples charged, "
        f"proven: {proof.is_proven}"
    )


def cluster(store: Store, folder: Path, rounds: int) -> str:
    """Kills and takeovers by turns, on a campaign that outlasts them; then a drain."""
    chosen = ChaosPlan.model_validate({"faults": {}, "samples": 60_000, "cells": 20, "engine": {"seconds": 0.3}})
    _create(store, chosen.grid(), 20)
    raylets = DrillCluster(folder, cpus_per_node=2)
    job: dict[str, object] = {
        "store": store.writer.url.render_as_string(hide_password=False),
        "campaign": NAME,
        "address": raylets.address,
        "num_workers": 4,
        "lease_seconds": 8.0,
        "stall_seconds": 20.0,
        "spool_folder": str(folder / "spool"),
    }
    world = World(chosen, folder, store, str(job["store"]), raylets, None, Orchestrators(folder, job), random.Random(1))
    try:
        for _ in range(2):
            raylets.add_node()
        world.orchestrators.start()
        return _strike(world, rounds)
    finally:
        world.orchestrators.kill_all()
        raylets.stop()


def _strike(world: World, rounds: int) -> str:
    dispatches, loads = [], 0
    for _ in range(rounds):
        _wait(lambda: len(_up(world)) == 4)
        time.sleep(1.0)
        _kill_a_worker(world)
        time.sleep(1.0)
        seconds, new = _take_over(world)
        dispatches.append(seconds)
        loads += new
    drained = _drain(world)
    waits = releases_after(world.store, world.kills)
    return (
        f"{len(waits)} shards of {rounds} killed workers leased again after p50 {statistics.median(waits):.2f} s, "
        f"p99 {waits[int(0.99 * (len(waits) - 1))]:.2f} s, worst {waits[-1]:.2f} s; "
        f"{rounds} new orchestrators dispatched after p50 {statistics.median(dispatches):.2f} s, "
        f"worst {max(dispatches):.2f} s, with {loads} engine loads; {drained}"
    )


def _kill_a_worker(world: World) -> None:
    """And wait until another one has taken its place."""
    name, process = world.living_workers()[0]
    world.kills.append((time.time(), name))
    os.kill(process, signal.SIGKILL)
    _wait(lambda: len(_up(world) - {name}) == 4)


def _take_over(world: World) -> tuple[float, int]:
    """SIGKILL, a new process at once; seconds until it has opened an attempt, and the workers started until then."""
    old = world.orchestrators.current
    assert old is not None
    before, epoch = _num_workers(world), views.campaign_header(world.store).epoch
    started = time.time()
    old.kill()
    old.wait()
    world.orchestrators.start()
    _wait(lambda: views.campaign_header(world.store).epoch > epoch)
    since = _newest(world, sa.select(sa.func.max(events.c.at)).where(events.c.kind == "orchestrator"))
    _wait(lambda: _newest(world, sa.select(sa.func.max(attempts.c.opened_at))) > since)
    first = sa.select(sa.func.min(attempts.c.opened_at)).where(attempts.c.opened_at > since)
    return _newest(world, first) - started, _num_workers(world) - before


def _drain(world: World) -> str:
    """SIGTERM: how long until the process has ended, and what is still leased then."""
    current = world.orchestrators.current
    assert current is not None
    started = time.monotonic()
    current.terminate()
    current.wait()
    seconds, header = time.monotonic() - started, views.campaign_header(world.store)
    return (
        f"a drain took {seconds:.2f} s of 6 s grace, {header.shards['leased']} shards are leased after it, "
        f"{len(wrong_charges(world.store))} samples are charged"
    )


def _up(world: World) -> set[str]:
    with world.store.read() as connection:
        return set(connection.scalars(sa.select(workers.c.name).where(workers.c.state == "ready")))


def _num_workers(world: World) -> int:
    return int(_newest(world, sa.select(sa.func.count()).select_from(workers)))


def _newest(world: World, query: sa.Select[Any]) -> float:
    with world.store.read() as connection:
        return float(connection.scalar(query) or 0.0)


def _wait(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit("error: the cluster did not come to that within a minute")
        time.sleep(0.05)


PARTS: dict[str, Callable[[Store, Path, int], str]] = {"stale": stale, "poison": poison, "cluster": cluster}

if __name__ == "__main__":
    main()
