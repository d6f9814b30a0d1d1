"""The faults, by name. Each says what it did, or None when there was nothing to do it to."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from orchestrator.scheduler.chaos.cluster import ClusterNode
from orchestrator.scheduler.chaos.processes import send
from orchestrator.scheduler.chaos.world import World
from orchestrator.scheduler.outage import spool_name
from orchestrator.store import control
from orchestrator.store.campaigns import Fence

Fault = Callable[[World], str | None]


def worker_killed(world: World) -> str | None:
    found = world.some_worker()
    if found is None or not send(found[1], signal.SIGKILL):
        return None
    world.kills.append((time.time(), found[0]))
    return found[0]


def engine_killed(world: World) -> str | None:
    found = world.some_worker()
    child = world.child_of(found[1]) if found else None
    if found is None or child is None or not send(child, signal.SIGKILL):
        return None
    return f"engine of {found[0]}"


def worker_frozen(world: World) -> str | None:
    """Longer than its lease: it wakes as a zombie and reports for attempts that are not its own any more."""
    found = world.some_worker()
    if found is None or not send(found[1], signal.SIGSTOP):
        return None
    seconds = 1.5 * world.plan.lease_seconds
    world.in_seconds(seconds, partial(_wake, [found[1]]))
    return f"{found[0]} for {seconds:.0f} s"


def orchestrator_killed(world: World) -> str | None:
    current = world.orchestrators.current
    if current is None:
        return None
    current.kill()
    current.wait()
    world.orchestrators.start()
    return f"process {current.pid}"


def orchestrator_killed_while_resuming(world: World) -> str | None:
    current = world.orchestrators.current
    if current is not None:
        current.kill()
        current.wait()
    second = world.orchestrators.start()
    time.sleep(world.random.uniform(1.0, 4.0))
    second.kill()
    second.wait()
    world.orchestrators.start()
    return f"process {second.pid}"


def orchestrator_twice(world: World) -> str | None:
    """The second one must find that it is not needed, and leave."""
    if world.orchestrators.current is None:
        return None
    second = world.orchestrators.start()
    world.orchestrators.processes.insert(0, world.orchestrators.processes.pop())
    return f"process {second.pid} beside the first"


def orchestrator_frozen_and_replaced(world: World) -> str | None:
    """The frozen one wakes, finds its epoch over, and must not harm its successor."""
    current = world.orchestrators.current
    if current is None or not send(current.pid, signal.SIGSTOP):
        return None
    world.in_seconds(8.0, partial(_wake, [current.pid]))
    world.orchestrators.start()
    return f"process {current.pid}"


def orchestrator_drained(world: World) -> str | None:
    current = world.orchestrators.current
    if current is None or not send(current.pid, signal.SIGTERM):
        return None
    return f"process {current.pid}"


def clock_skewed(world: World) -> str | None:
    current = world.orchestrators.current
    if current is not None:
        current.kill()
        current.wait()
    skew = world.random.choice((-86_400.0, -3_600.0, 3_600.0, 86_400.0))
    world.orchestrators.start(skew_seconds=skew)
    return f"by {skew:+.0f} s"


def raylet_killed(world: World) -> str | None:
    node = _some_node(world)
    raylet = node.raylet if node else None
    if raylet is None or not send(raylet, signal.SIGKILL):
        return None
    _add_node_later(world)
    return f"process {raylet}"


def node_frozen(world: World) -> str | None:
    """As if its network were gone: everything on it stands still, then wakes."""
    node = _some_node(world)
    if node is None:
        return None
    processes = node.all_processes()
    for process in processes:
        send(process, signal.SIGSTOP)
    world.in_seconds(2.0 * world.plan.lease_seconds, partial(_wake, processes))
    _add_node_later(world)
    return f"{len(processes)} processes"


def node_drained(world: World) -> str | None:
    """SIGTERM to `ray start --block`: Ray gives notice, then the node goes."""
    node = _some_node(world)
    if node is None or not send(node.process.pid, signal.SIGTERM):
        return None
    _add_node_later(world)
    return f"process {node.process.pid}"


def store_blocked(world: World) -> str | None:
    seconds = world.random.uniform(1.0, 4.0)
    return f"for {seconds:.1f} s" if world.block_sqlite(seconds) else None


def store_restarted(world: World) -> str | None:
    if world.postgres is None:
        return None
    world.postgres.restart(mode=world.random.choice(("immediate", "fast")))
    return "PostgreSQL"


def store_away_long(world: World) -> str | None:
    seconds = world.plan.store_away_seconds
    return f"for {seconds:.0f} s" if world.store_away(seconds) else None


def spool_disk_full(world: World) -> str | None:
    """The store is away and the spool's disk is full: only the workers hold the outcomes then."""
    full = Path("/dev/full")
    if not full.exists() or not world.store_away(15.0):
        return None
    world.spool_folder.mkdir(exist_ok=True)
    for spool in _spools(world):
        spool.unlink(missing_ok=True)
        spool.symlink_to(full)
        world.in_seconds(20.0, partial(spool.unlink, missing_ok=True))
    return "with the store away for 15 s"


def spool_torn(world: World) -> str | None:
    """An orchestrator dies while it spools: half a line is left, after one that is no record."""
    current = world.orchestrators.current
    if current is not None:
        current.kill()
        current.wait()
    world.spool_folder.mkdir(exist_ok=True)
    for spool in _spools(world):
        if not spool.is_symlink():
            with spool.open("ab") as file:
                file.write(b'00000000 {"attempt_id": 1}\n1234abcd {"attempt_id": 1, "shard_')
    world.orchestrators.start()
    return "half a line"


def paused_and_resumed(world: World) -> str | None:
    control.pause(world.store, None)
    time.sleep(2.0)
    control.resume(world.store, None)
    return "for 2 s"


def _spools(world: World) -> list[Path]:
    return [world.spool_folder / spool_name(world.store, Fence(1, 0))]


def _some_node(world: World) -> ClusterNode | None:
    """Never the last one."""
    if world.cluster is None:
        return None
    nodes = world.cluster.living()
    return world.random.choice(nodes) if len(nodes) > 1 else None


def _add_node_later(world: World) -> None:
    cluster = world.cluster
    if cluster is not None:
        world.in_seconds(1.0, lambda: _refill(world))


def _refill(world: World) -> None:
    cluster = world.cluster
    while cluster is not None and len(cluster.living()) < world.plan.nodes:
        cluster.add_node()


def _wake(processes: list[int]) -> None:
    for process in processes:
        send(process, signal.SIGCONT)


FAULTS: dict[str, Fault] = {
    fault.__name__: fault
    for fault in (
        worker_killed,
        engine_killed,
        worker_frozen,
        orchestrator_killed,
        orchestrator_killed_while_resuming,
        orchestrator_twice,
        orchestrator_frozen_and_replaced,
        orchestrator_drained,
        clock_skewed,
        raylet_killed,
        node_frozen,
        node_drained,
        store_blocked,
        store_restarted,
        store_away_long,
        spool_disk_full,
        spool_torn,
        paused_and_resumed,
    )
}
