"""The seam between the loop and the machines: a pool starts workers and carries messages to them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from orchestrator.domain.placement import Node
from workers.engine import EngineSpec
from workers.exchange import WorkerMessage, WorkerReport, WorkerStart


@dataclass(frozen=True, slots=True)
class Gone:
    """The worker's process or node does not exist any more."""

    reason: str
    preempted: bool = False
    """Taken away with notice; charged to nobody and no sign of trouble."""


class WorkerPool(Protocol):
    """Implemented by `inline_pool` (threads here) and `ray_pool` (actors anywhere)."""

    name: str
    """Recorded with each worker; another orchestrator with a pool of the same name may adopt them."""

    def room(self, engine: EngineSpec) -> int:
        """How many more workers of this engine could start now."""
        ...

    def nodes(self) -> Sequence[Node]:
        """The hosts with what is free on them, so that the loop places gangs itself; empty: the pool places workers."""
        ...

    def start(self, start: WorkerStart) -> None:
        """Begin to start a worker, on `start.node` if named; it is heard through `exchange` once it is there."""

    def adopt(self, wanted: Mapping[str, EngineSpec]) -> set[str]:
        """The names among `wanted` whose workers live and are now in this pool."""
        ...

    def free(self) -> set[str]:
        """Workers that can take a message now."""
        ...

    def exchange(
        self, messages: Mapping[str, WorkerMessage], timeout_seconds: float
    ) -> Mapping[str, WorkerReport | Gone]:
        """Send to free workers and collect the answers that come within the time, earlier ones included.

        Raises StaleOrchestrator when a worker has heard a newer orchestrator.
        """
        ...

    def leaving(self) -> Mapping[str, float]:
        """Workers whose node will be taken away, with the seconds they have left."""
        ...

    def stop(self, names: Collection[str]) -> None:
        """End these workers now."""

    def close(self, *, keep_workers: bool = False) -> None:
        """Leave; with `keep_workers` they go on and wait for another orchestrator, where the pool can do that."""
