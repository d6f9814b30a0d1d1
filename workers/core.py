"""A worker without its transport: an engine, its runner, and the records that nobody has acknowledged yet.

The loop runs in a thread of its own, so that `exchange` answers while an engine loads or hangs. What
the loop owns (the runner) only the loop touches, except when the watchdog of `exchange` finds it stuck.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from itertools import islice

from workers.engine import Engine, EngineFacts, EngineProgress
from workers.exchange import (
    RECORDS_A_REPORT,
    AttemptEnd,
    Condition,
    Record,
    StaleOrchestrator,
    WorkerMessage,
    WorkerReport,
    WorkerStart,
    unproven_after,
)
from workers.factory import load_engine
from workers.failures import EngineError, Failure, FailureKind
from workers.runner import ShardRunner
from workers.source import SampleSource, TaskSource

_IDLE_SECONDS = 0.005
_POLL_SECONDS = 0.05
_STUCK_GRACE_SECONDS = 5.0


class WorkerCore:
    """Holds one engine for its whole life. `exchange` may be called from any thread."""

    def __init__(
        self,
        start: WorkerStart,
        *,
        source: SampleSource | None = None,
        load: Callable[[], Engine] | None = None,
        node: str | None = None,
        on_orphaned: Callable[[], None] | None = None,
    ) -> None:
        self.start = start
        self._source = source or TaskSource()
        self._load = load or (lambda: load_engine(start.engine_name, start.engine))
        self._node = node or socket.gethostname()
        self._on_orphaned = on_orphaned
        self._lock = threading.Lock()
        self._inbox: deque[WorkerMessage] = deque()
        self._records: deque[Record] = deque()
        self._first_record = 1
        self._held: dict[int, int] = {}
        self._unproven = False
        self._epoch = 0
        self._runner: ShardRunner | None = None
        self._engine: Engine | None = None
        self._facts: EngineFacts | None = None
        self._failure: Failure | None = None
        self._drain_wanted: float | None = None
        self._heard_at = time.monotonic()
        self._canary_at = time.monotonic()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._live, name=f"worker-{start.name}", daemon=True)
        self._thread.start()

    def exchange(self, message: WorkerMessage) -> WorkerReport:
        """Take orders and acknowledgements, give a report. Raises StaleOrchestrator for an old epoch."""
        with self._lock:
            if message.epoch < self._epoch:
                raise StaleOrchestrator(f"epoch {message.epoch} is over, {self._epoch} is in charge")
            self._epoch = message.epoch
            self._heard_at = time.monotonic()
            self._forget_acknowledged(message.acknowledged)
            self._accept(message)
            self._watch()
            return self._report(message.seen, message.room)

    def close(self, wait_seconds: float = 5.0) -> None:
        """End the loop and shut the engine down."""
        self._stopping.set()
        self._thread.join(wait_seconds)
        if self._thread.is_alive() and self._engine is not None:
            self._engine.close()

    def _accept(self, message: WorkerMessage) -> None:
        if self._failure is None:
            self._held.update({order.attempt_id: len(order.indices) for order in message.orders})
        if message.drain_seconds is not None:
            self._drain_wanted = message.drain_seconds
        for attempt_id in message.withdrawn:
            self._held.pop(attempt_id, None)
        told = message.orders or message.withdrawn or message.release or message.prove
        if told or message.drain_seconds is not None:
            self._inbox.append(message)

    def _keep(self, records: list[Record]) -> None:
        self._records.extend(records)
        self._unproven = unproven_after(records, self._unproven)
        for record in records:
            if isinstance(record, AttemptEnd):
                self._held.pop(record.attempt_id, None)

    def _forget_acknowledged(self, acknowledged: int) -> None:
        while self._first_record <= acknowledged and self._records:
            self._records.popleft()
            self._first_record += 1

    def _report(self, seen: int, room: int) -> WorkerReport:
        runner = self._runner
        first = max(self._first_record, seen + 1)
        start = first - self._first_record
        records = tuple(islice(self._records, start, start + min(room, RECORDS_A_REPORT)))
        return WorkerReport(
            name=self.start.name,
            condition=self._condition(),
            first_record=first,
            records=records,
            attempts=tuple(self._held),
            flying=runner.flying if runner else (),
            num_pending=(runner.num_pending if runner else 0) + self._num_arriving(),
            failure=self._failure,
            facts=self._facts,
            progress=self._progress(),
            node=self._node,
            pid=os.getpid(),
        )

    def _num_arriving(self) -> int:
        return sum(len(order.indices) for message in self._inbox for order in message.orders)

    def _condition(self) -> Condition:
        if self._failure is not None:
            return Condition.BROKEN
        if self._runner is None:
            return Condition.DRAINED if self._drain_wanted is not None else Condition.LOADING
        if not self._runner.is_draining and self._drain_wanted is None:
            return Condition.READY
        proven = not self._unproven or not self.start.canary_seconds or self._runner.is_late
        done = self._runner.is_draining and not self._held and not self._inbox and proven
        return Condition.DRAINED if done else Condition.DRAINING

    def _progress(self) -> EngineProgress:
        if self._engine is None or self._failure is not None:
            return EngineProgress(num_in_flight=0, num_tokens_total=0)
        return self._engine.progress()

    def _watch(self) -> None:
        """A loop that is stuck inside the engine cannot report that itself."""
        runner = self._runner
        if runner is None or self._failure is not None:
            return
        limit = self.start.stall_seconds + _STUCK_GRACE_SECONDS
        if runner.seconds_without_progress > limit:
            failure = Failure(kind=FailureKind.TIMEOUT, message=f"the engine is stuck for {limit:g} s", where="engine")
            self._break(failure, runner.fail(failure))

    def _break(self, failure: Failure, records: list[Record]) -> None:
        self._keep(records)
        self._failure = failure
        self._held.clear()
        self._stopping.set()

    def _live(self) -> None:
        try:
            self._engine = self._load()
        except Exception as error:
            with self._lock:
                self._break(_start_failure(error), [])
            return
        runner = ShardRunner(
            self._engine,
            self._source,
            max_in_flight=self.start.engine.max_in_flight,
            stall_seconds=self.start.stall_seconds,
            proves_itself=bool(self.start.canary_seconds),
        )
        self._canary_at = float("-inf")
        with self._lock:
            self._facts, self._runner = self._engine.facts, runner
        self._loop(runner)
        runner.close()

    def _loop(self, runner: ShardRunner) -> None:
        while not self._stopping.is_set():
            self._obey(runner)
            self._call_canary(runner)
            records = runner.step(_POLL_SECONDS)
            with self._lock:
                if self._failure is not None:
                    return
                self._keep(records)
                if runner.broken is not None:
                    self._break(runner.broken, [])
            if not records and not runner.num_in_flight:
                self._rest(runner)

    def _obey(self, runner: ShardRunner) -> None:
        """Carry out the messages that have come in, in order."""
        with self._lock:
            messages = list(self._inbox)
            for message in messages:
                for order in message.orders:
                    if order.attempt_id not in runner.attempts:
                        runner.add(order)
                runner.withdraw(message.withdrawn)
                if message.release:
                    runner.release()
                if message.prove:
                    runner.want_canary()
                if message.drain_seconds is not None:
                    runner.drain(message.drain_seconds)
            self._inbox.clear()

    def _call_canary(self, runner: ShardRunner) -> None:
        """At the start and on schedule, however busy the engine is: it is emptied for its canary."""
        now = time.monotonic()
        if self.start.canary_seconds and now - self._canary_at > self.start.canary_seconds:
            self._canary_at = now
            runner.want_canary()

    def _rest(self, runner: ShardRunner) -> None:
        """Nothing flies: a short pause, and an end when nobody is there any more."""
        self._stopping.wait(_IDLE_SECONDS)
        if runner.is_idle and time.monotonic() - self._heard_at > self.start.orphan_seconds:
            self._stopping.set()
            if self._on_orphaned is not None:
                self._on_orphaned()


def _start_failure(error: Exception) -> Failure:
    if isinstance(error, EngineError):
        return error.failure("start")
    message = f"{type(error).__name__}: {error}".splitlines()[0][:500]
    return Failure(kind=FailureKind.ENGINE_CRASH, message=message, where="start")
