"""What of a round the orchestrator spends waiting for its workers."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.domain.placement import Node
from orchestrator.scheduler.pool import Gone, WorkerPool
from workers.engine import EngineSpec
from workers.exchange import WorkerMessage, WorkerReport, WorkerStart


@dataclass
class TimedPool:
    """A pool that adds up how long the loop waited in it."""

    inner: WorkerPool
    waited: float = 0.0
    name: str = field(init=False)

    def __post_init__(self) -> None:
        self.name = self.inner.name

    def room(self, engine: EngineSpec) -> int:
        return self.inner.room(engine)

    def nodes(self) -> Sequence[Node]:
        return self.inner.nodes()

    def start(self, start: WorkerStart) -> None:
        self.inner.start(start)

    def adopt(self, wanted: Mapping[str, EngineSpec]) -> set[str]:
        return self.inner.adopt(wanted)

    def free(self) -> set[str]:
        return self.inner.free()

    def leaving(self) -> Mapping[str, float]:
        return self.inner.leaving()

    def stop(self, names: Collection[str]) -> None:
        self.inner.stop(names)

    def close(self, *, keep_workers: bool = False) -> None:
        self.inner.close(keep_workers=keep_workers)

    def exchange(
        self, messages: Mapping[str, WorkerMessage], timeout_seconds: float
    ) -> Mapping[str, WorkerReport | Gone]:
        before, cpu = time.monotonic(), time.thread_time()
        answers = self.inner.exchange(messages, timeout_seconds)
        self.waited += time.monotonic() - before - (time.thread_time() - cpu)
        return answers
