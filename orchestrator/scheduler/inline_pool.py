"""Workers as threads of this process: for one machine, tests and simulations of failure."""

from __future__ import annotations

import os
import socket
from collections.abc import Collection, Mapping, Sequence

from orchestrator.domain.placement import Node
from orchestrator.scheduler.pool import Gone
from workers.core import WorkerCore
from workers.engine import EngineSpec
from workers.exchange import WorkerMessage, WorkerReport, WorkerStart


class InlinePool:
    """At most `num_workers` engines, each with a thread of its own."""

    def __init__(self, num_workers: int = 1) -> None:
        self.name = f"inline:{socket.gethostname()}:{os.getpid()}"
        self._num_workers = num_workers
        self._cores: dict[str, WorkerCore] = {}
        self._lost: dict[str, Gone] = {}

    def room(self, engine: EngineSpec) -> int:
        return max(0, self._num_workers - len(self._cores))

    def nodes(self) -> Sequence[Node]:
        return ()

    def start(self, start: WorkerStart) -> None:
        self._cores[start.name] = WorkerCore(start)

    def adopt(self, wanted: Mapping[str, EngineSpec]) -> set[str]:
        return set(wanted) & set(self._cores)

    def free(self) -> set[str]:
        return set(self._cores) | set(self._lost)

    def exchange(
        self, messages: Mapping[str, WorkerMessage], timeout_seconds: float
    ) -> Mapping[str, WorkerReport | Gone]:
        answers: dict[str, WorkerReport | Gone] = {}
        for name, message in messages.items():
            if name in self._lost:
                answers[name] = self._lost.pop(name)
            elif name in self._cores:
                answers[name] = self._cores[name].exchange(message)
            else:
                answers[name] = Gone("no such worker in this process")
        return answers

    def leaving(self) -> Mapping[str, float]:
        return {}

    def kill(self, name: str, *, preempted: bool = False) -> None:
        """Lose a worker as a crash would, with whatever it holds."""
        self._lost[name] = Gone("killed", preempted)
        self._cores.pop(name).close(wait_seconds=0.5)

    def worker_names(self) -> list[str]:
        return list(self._cores)

    def stop(self, names: Collection[str]) -> None:
        for name in names:
            core = self._cores.pop(name, None)
            self._lost.pop(name, None)
            if core is not None:
                core.close()

    def close(self, *, keep_workers: bool = False) -> None:
        """Threads cannot outlive the process; `keep_workers` leaves them to a next loop in it."""
        if not keep_workers:
            self.stop(list(self._cores))
