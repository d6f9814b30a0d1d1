"""What faults act on: the cluster, the orchestrator processes, the store, and what the store says is alive."""

from __future__ import annotations

import json
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa

from orchestrator.errors import StoreError
from orchestrator.scheduler.chaos.cluster import DrillCluster, drill_environment
from orchestrator.scheduler.chaos.plan import ChaosPlan
from orchestrator.scheduler.chaos.postgres import PostgresServer
from orchestrator.scheduler.chaos.processes import descendants, is_alive, send
from orchestrator.store import views
from orchestrator.store.fleet import ALIVE
from orchestrator.store.schema import workers
from orchestrator.store.session import Store, StoreUnavailable


@dataclass(slots=True)
class Orchestrators:
    """The orchestrator processes of a drill; the newest one is meant to live."""

    folder: Path
    job: dict[str, object]
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    num_started: int = 0

    def start(self, *, skew_seconds: float = 0.0) -> subprocess.Popen[bytes]:
        self.num_started += 1
        job_file = self.folder / f"job-{self.num_started}.json"
        job_file.write_text(json.dumps({**self.job, "skew_seconds": skew_seconds}))
        log = (self.folder / "orchestrators.log").open("ab")
        log.write(f"--- {self.num_started} at {time.time():.3f}\n".encode())
        process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator.scheduler.chaos.driver", str(job_file)],
            env=drill_environment(),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        self.processes.append(process)
        return process

    @property
    def current(self) -> subprocess.Popen[bytes] | None:
        living = [p for p in self.processes if p.poll() is None]
        return living[-1] if living else None

    def kill_all(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                send(process.pid, signal.SIGCONT)
                process.kill()
            process.wait()


@dataclass(slots=True)
class World:
    """Everything that a fault may touch."""

    plan: ChaosPlan
    folder: Path
    store: Store
    store_url: str
    cluster: DrillCluster | None
    postgres: PostgresServer | None
    orchestrators: Orchestrators
    random: random.Random
    kills: list[tuple[float, str]] = field(default_factory=list)
    """When which worker was killed, for the time until its samples were leased again."""
    outages: list[tuple[float, float]] = field(default_factory=list)
    """From when to when the store was kept away, seconds since 1970."""
    later: list[tuple[float, Callable[[], None]]] = field(default_factory=list)
    """What is to be undone, and when (our monotonic clock)."""

    def in_seconds(self, seconds: float, act: Callable[[], None]) -> None:
        self.later.append((time.monotonic() + seconds, act))

    def undo_due(self, *, everything: bool = False) -> None:
        now = time.monotonic()
        due = [act for at, act in self.later if everything or at <= now]
        self.later = [(at, act) for at, act in self.later if not (everything or at <= now)]
        for act in due:
            act()

    def living_workers(self) -> list[tuple[str, int]]:
        """Name and process of the workers that the store believes in and that exist."""
        try:
            with self.store.read() as connection:
                query = sa.select(workers.c.name, workers.c.pid).where(
                    workers.c.state.in_(ALIVE), workers.c.pid.is_not(None)
                )
                rows = connection.execute(query.order_by(workers.c.id)).all()
        except StoreUnavailable:
            return []
        return [(row.name, row.pid) for row in rows if is_alive(row.pid)]

    def some_worker(self) -> tuple[str, int] | None:
        found = self.living_workers()
        return self.random.choice(found) if found else None

    def child_of(self, process: int) -> int | None:
        """The engine's own process."""
        found = descendants(process)
        return found[0] if found else None

    def is_ready_for(self, fault: str) -> bool:
        """There is somebody to hit: a worker, and for an orchestrator's faults one that is really in charge."""
        current = self.orchestrators.current
        if not fault.startswith(("orchestrator", "clock", "spool_torn")):
            return bool(self.living_workers()) or fault.startswith("store")
        with suppress(StoreError):
            owner = views.campaign_header(self.store).orchestrator or ""
            return current is not None and owner.split(":")[1:2] == [str(current.pid)]
        return False

    @property
    def spool_folder(self) -> Path:
        return self.folder / "spool"

    def block_sqlite(self, seconds: float) -> bool:
        """Hold the database's write lock from outside, as a stuck backup would; False when it cannot be had."""
        if self.plan.store != "sqlite":
            return False
        path = self.folder / "store.sqlite"
        connection = sqlite3.connect(path, timeout=2, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:  # held already, by an earlier fault
            connection.close()
            return False
        release = threading.Timer(seconds, connection.close)
        release.daemon = True
        release.start()
        return True

    def store_away(self, seconds: float) -> bool:
        """The store answers nobody for so long."""
        if self.postgres is None and not self.block_sqlite(seconds):
            return False
        if self.postgres is not None:
            self.postgres.halt("immediate")
            self.in_seconds(seconds, self.postgres.start)
        self.outages.append((time.time(), time.time() + seconds))
        return True
