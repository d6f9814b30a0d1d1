"""A worker that only lets time pass: it speaks the protocol of real workers and its engine is arithmetic.

The engine runs its samples one after another at the predicted engine seconds each; an outcome is reported half a
batch later than its turn, as in a batch of `in_flight` requests. So a sudden loss throws away half a batch, and an
engine that runs dry idles for half a batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice

from workers.engine import EngineFacts, EngineProgress
from workers.exchange import AttemptEnd, Condition, Record, WorkerMessage, WorkerReport, WorkerStart
from workers.protocol import SampleOutcome, ShardOrder

PROMPT_HASH = "simulated"


@dataclass(frozen=True, slots=True)
class SampleTime:
    """What the true engine seconds of an order's samples are, and how many run at once."""

    seconds: float
    in_flight: float
    output_tokens: int = 0


TimeOf = Callable[[ShardOrder], SampleTime]


@dataclass(slots=True)
class _Item:
    """One sample, or the end of an attempt (`index` None)."""

    attempt_id: int
    index: int | None
    at: float
    """When it can be reported."""
    seconds: float = 0.0
    delay: float = 0.0
    """From its turn's end to `at`."""


@dataclass(slots=True)
class SimWorker:
    """One engine on its node or nodes. All times are seconds of the simulation's clock."""

    start: WorkerStart
    nodes: tuple[str, ...]
    gpus: int
    """On all of them together."""
    born: float
    load_seconds: float
    time_of: TimeOf
    free_at: float = 0.0
    """When the engine has worked off everything ordered so far."""
    busy_seconds: float = 0.0
    """Engine seconds of the samples that were reported."""
    orders: dict[int, ShardOrder] = field(default_factory=dict)
    coming: deque[_Item] = field(default_factory=deque)
    unsafe: deque[Record] = field(default_factory=deque)
    """Records that are not acknowledged."""
    first_record: int = 1
    """Number of the oldest of them."""
    drained_at: float | None = None
    dead: bool = False

    @property
    def ready_at(self) -> float:
        return self.born + self.load_seconds

    def exchange(self, message: WorkerMessage, now: float) -> WorkerReport:
        """Obey the message, let time pass until `now`, and report."""
        self.advance(now)
        self._acknowledge(message.acknowledged)
        for attempt_id in message.withdrawn:
            self._forget(attempt_id)
        for order in message.orders:
            self._take(order, now)
        if message.drain_seconds is not None and self.drained_at is None:
            self.drained_at = now + message.drain_seconds
            self._give_back(now)
        return self._report(now, message.seen, message.room)

    def lost_seconds(self, now: float) -> float:
        """Engine seconds already spent on samples that have not been reported: what a loss now throws away."""
        spent = (min(item.seconds, now - (item.at - item.delay - item.seconds)) for item in self.coming)
        return sum(max(0.0, seconds) for seconds in spent)

    def _acknowledge(self, number: int) -> None:
        while self.unsafe and self.first_record <= number:
            self.unsafe.popleft()
            self.first_record += 1

    def _forget(self, attempt_id: int) -> None:
        dropped = [item for item in self.coming if item.attempt_id == attempt_id]
        self.coming = deque(item for item in self.coming if item.attempt_id != attempt_id)
        self.free_at -= sum(item.seconds for item in dropped)
        self.orders.pop(attempt_id, None)

    def _give_back(self, now: float) -> None:
        """A drain: what is in the engine is finished, every other sample goes back."""
        assert self.drained_at is not None
        kept, back = [], {}
        for item in self.coming:
            begun = item.at - item.delay - item.seconds <= now
            if item.index is not None and begun and item.at <= self.drained_at:
                kept.append(item)
            else:
                back[item.attempt_id] = AttemptEnd(attempt_id=item.attempt_id, released=True)
        self.free_at = max((item.at - item.delay for item in kept), default=now)
        ends = [
            _Item(attempt_id, None, max((i.at for i in kept if i.attempt_id == attempt_id), default=now))
            for attempt_id in back
        ]
        self.coming = deque(sorted([*kept, *ends], key=lambda item: item.at))

    def _take(self, order: ShardOrder, now: float) -> None:
        if order.attempt_id in self.orders:
            return
        time = self.time_of(order)
        self.orders[order.attempt_id] = order
        self.free_at = max(self.free_at, now, self.ready_at)
        delay = time.seconds * max(0.0, time.in_flight - 1) / 2
        for index in order.indices:
            self.free_at += time.seconds
            self.coming.append(_Item(order.attempt_id, index, self.free_at + delay, time.seconds, delay))
        self.coming.append(_Item(order.attempt_id, None, self.free_at + delay))

    def advance(self, now: float) -> None:
        """Let time pass: what is done by now becomes a record."""
        while self.coming and self.coming[0].at <= now:
            item = self.coming.popleft()
            self.busy_seconds += item.seconds
            if item.index is None:
                self.orders.pop(item.attempt_id, None)
                self.unsafe.append(AttemptEnd(attempt_id=item.attempt_id, released=self.drained_at is not None))
            else:
                self.unsafe.append(self._outcome(self.orders[item.attempt_id], item))

    def _outcome(self, order: ShardOrder, item: _Item) -> SampleOutcome:
        assert item.index is not None
        return SampleOutcome(
            attempt_id=order.attempt_id,
            shard_id=order.shard_id,
            cell_key=order.cell_key,
            index=item.index,
            sample_key=f"{order.cell_key}/{item.index}",
            prompt_hash=PROMPT_HASH,
            verdict="correct",
            score=1.0,
            num_prompt_tokens=order.length_tokens,
            seconds_total=item.seconds,
        )

    def _report(self, now: float, seen: int, room: int) -> WorkerReport:
        waiting = sum(item.index is not None for item in self.coming)
        ahead = max(0, waiting - self.start.engine.max_in_flight)
        start = max(0, seen + 1 - self.first_record)
        return WorkerReport(
            name=self.start.name,
            condition=self._condition(now),
            first_record=max(self.first_record, seen + 1),
            records=tuple(islice(self.unsafe, start, start + room)),
            attempts=tuple(self.orders),
            num_pending=ahead,
            facts=self._facts() if now >= self.ready_at else None,
            progress=EngineProgress(num_in_flight=waiting - ahead, num_tokens_total=int(self.busy_seconds * 1000)),
            node=self.nodes[0],
        )

    def _condition(self, now: float) -> Condition:
        if now < self.ready_at:
            return Condition.LOADING
        if self.drained_at is not None:
            return Condition.DRAINING if self.orders else Condition.DRAINED
        return Condition.READY

    def _facts(self) -> EngineFacts:
        return EngineFacts(
            engine="simulated",
            device="simulated",
            executor="simulated",
            num_weight_loads=1,
            load_seconds=self.load_seconds,
            kv_capacity_tokens=0,
            max_model_len=self.start.engine.max_model_len,
        )
