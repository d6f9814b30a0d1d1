"""The shard runner: keeps one engine fed with the samples of several orders, and reports each outcome.

One bad sample never stops an order. When the engine dies, every order ends with its samples in flight
named, and the runner is broken for good: a fresh worker replaces it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor

from workers.canary import PREFIX, canary_digest, canary_requests
from workers.engine import Engine, Generation, GenerationFailure, GenerationRequest
from workers.exchange import AttemptEnd, CanaryResult, InFlight, Record, unproven_after
from workers.failures import EngineError, EngineStalled, Failure, FailureKind
from workers.open_order import Flight, OpenOrder, cache_tokens, in_flight
from workers.protocol import ShardOrder
from workers.scoring import failed_outcome, scored_outcome
from workers.source import Prepared, SampleSource

Clock = Callable[[], float]


class ShardRunner:
    """Not thread-safe: one thread calls `add`, `withdraw`, `drain` and `step`."""

    def __init__(
        self,
        engine: Engine,
        source: SampleSource,
        *,
        max_in_flight: int,
        stall_seconds: float = 600.0,
        proves_itself: bool = False,
        clock: Clock = time.monotonic,
    ) -> None:
        self.broken: Failure | None = None
        self._engine, self._source, self._clock = engine, source, clock
        self._max_in_flight = max_in_flight
        self._stall_seconds = stall_seconds
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="samples")
        self._orders: list[OpenOrder] = []
        self._flying: dict[str, Flight] = {}
        self._canaries: dict[str, GenerationRequest] = {}
        self._digests: dict[str, str] = {}
        self._proves_itself, self._unproven = proves_itself, False
        self._canary_wanted = False
        self._drain_until: float | None = None
        self._num_submitted = 0
        self._tokens_seen, self._advanced_at = -1, clock()

    @property
    def attempts(self) -> tuple[int, ...]:
        return tuple(o.order.attempt_id for o in self._orders)

    @property
    def flying(self) -> tuple[int, ...]:
        """Attempts with samples in the engine; may be read from another thread."""
        return tuple({flight.open_order.order.attempt_id for flight in list(self._flying.values())})

    @property
    def num_pending(self) -> int:
        return sum(o.num_pending for o in self._orders)

    @property
    def num_in_flight(self) -> int:
        return len(self._flying)

    @property
    def is_idle(self) -> bool:
        return not self._orders and not self._canaries and not self._canary_wanted

    @property
    def is_draining(self) -> bool:
        return self._drain_until is not None

    @property
    def is_late(self) -> bool:
        """The time of its drain is over."""
        return self._drain_until is not None and self._clock() >= self._drain_until

    @property
    def seconds_without_progress(self) -> float:
        """How long no token came although requests are in flight; for the watchdog of another thread."""
        return self._clock() - self._advanced_at if self._flying or self._canaries else 0.0

    def add(self, order: ShardOrder) -> None:
        self._orders.append(OpenOrder.of(order))

    def want_canary(self) -> None:
        """Run the known prompts as soon as the engine is empty; no sample enters it before."""
        self._canary_wanted = not self._canaries

    def withdraw(self, attempt_ids: Collection[int]) -> None:
        """Forget these orders: nothing of them is reported any more."""
        for open_order in [o for o in self._orders if o.order.attempt_id in attempt_ids]:
            self._abort(open_order)
            self._orders.remove(open_order)

    def release(self) -> None:
        """Give back what is not in the engine; what flies may land."""
        for open_order in self._orders:
            open_order.released |= bool(open_order.num_pending)
            open_order.drop_pending()

    def drain(self, seconds: float) -> None:
        """Submit no more samples; what flies may land within `seconds`, the rest is given back.

        A runner that proves itself runs the known prompts once more at the end, if time is left.
        """
        until = self._clock() + seconds
        self._drain_until = until if self._drain_until is None else min(until, self._drain_until)

    def step(self, timeout_seconds: float) -> list[Record]:
        """Do what can be done now; waits up to `timeout_seconds` for the engine. Returns new records."""
        if self.broken is not None:
            return []
        try:
            return self._step(timeout_seconds)
        except EngineError as error:
            return self.fail(error.failure())
        except Exception as error:  # an engine that raises anything else is as dead
            failure = Failure(kind=FailureKind.ENGINE_CRASH, message=f"{type(error).__name__}: {error}", where="engine")
            return self.fail(failure)

    def fail(self, failure: Failure) -> list[Record]:
        """The engine is lost: end every order; those with samples in flight name them."""
        self.broken = failure
        num_in_flight = len(self._flying)
        ends: list[Record] = []
        for open_order in self._orders:
            mine = tuple(in_flight(f) for f in self._flying.values() if f.open_order is open_order)
            ends.append(_end_of_broken(open_order.order.attempt_id, mine, num_in_flight, failure))
            open_order.drop_pending()
        self._orders.clear()
        self._flying.clear()
        self._canaries.clear()
        self._canary_wanted = False
        return ends

    def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)
        self._engine.close()

    def _step(self, timeout_seconds: float) -> list[Record]:
        records: list[Record] = []
        if self._drain_until is not None:
            self._give_back()
        else:
            records += self._prepare()
            self._submit()
        busy = self._flying or self._canaries
        for made in self._engine.poll(timeout_seconds if busy else 0.0):
            records += self._landed(made)
        self._watch()
        records += self._finished()
        self._unproven = unproven_after(records, self._unproven)
        return records

    def _prepare(self) -> list[Record]:
        """Keep as many samples made ahead as the engine takes at once, and one of whoever must go before the others."""
        ahead = sum(o.num_made_ahead for o in self._orders)
        for open_order in self._in_turn():
            first = open_order.wants_isolation and not open_order.num_made_ahead
            while open_order.waiting and (first or ahead < self._max_in_flight + 2):
                open_order.make_next(self._source, self._executor)
                ahead, first = ahead + 1, False
        return [outcome for o in self._orders for outcome in o.collect_made()]

    def _in_turn(self) -> list[OpenOrder]:
        """Orders with samples to isolate first, then first come, first served."""
        return sorted(self._orders, key=lambda o: not o.wants_isolation)

    def _submit(self) -> None:
        if self._canary_wanted or self._canaries:
            self._submit_canary()
            return
        while (chosen := self._next()) is not None:
            open_order, prepared = chosen
            self._num_submitted += 1
            request_id = f"{open_order.order.attempt_id}-{prepared.index}-{self._num_submitted}"
            if not self._flying:
                self._advanced_at = self._clock()
            alone = prepared.index in open_order.order.isolated
            self._flying[request_id] = Flight(open_order, prepared, self._clock(), alone)
            open_order.num_flying += 1
            self._engine.submit(open_order.request(request_id, prepared))

    def _next(self) -> tuple[OpenOrder, Prepared] | None:
        """The next sample that may enter the engine now; isolated ones enter an empty engine and stay alone."""
        if any(flight.alone for flight in self._flying.values()):
            return None
        orders = self._in_turn()
        isolating = any(o.wants_isolation for o in orders[:1])
        if isolating and self._flying:
            return None
        for open_order in orders[:1] if isolating else orders:
            if open_order.ready and len(self._flying) < self._limit(open_order) and self._has_room(open_order):
                return open_order, open_order.ready.popleft()
        return None

    def _limit(self, candidate: OpenOrder) -> int:
        """Requests in flight that the candidate and everything flying tolerate."""
        orders = {id(f.open_order): f.open_order for f in self._flying.values()} | {id(candidate): candidate}
        limits = [o.order.max_in_flight for o in orders.values() if o.order.max_in_flight is not None]
        return min([self._max_in_flight, *limits])

    def _has_room(self, candidate: OpenOrder) -> bool:
        """Whether the cache holds the candidate's next sample too; else the engine would preempt and prefill again."""
        inside = [(f.open_order.order, f.prepared) for f in self._flying.values()]
        needed = cache_tokens([*inside, (candidate.order, candidate.ready[0])])
        return not inside or needed <= self._engine.facts.kv_capacity_tokens

    def _submit_canary(self) -> None:
        if self._canary_wanted and not self._flying:
            self._canary_wanted = False
            wanted = canary_requests(self._engine.facts.max_model_len)
            self._canaries = {request.request_id: request for request in wanted}
            self._digests = {}
            self._next_canary()

    def _next_canary(self) -> None:
        for request in list(self._canaries.values())[:1]:
            self._advanced_at = self._clock()
            self._engine.submit(request)

    def _landed(self, made: Generation | GenerationFailure) -> list[Record]:
        if made.request_id.startswith(PREFIX):
            return self._canary_landed(made)
        flight = self._flying.pop(made.request_id, None)
        if flight is None:
            return []
        order, prepared = flight.open_order.order, flight.prepared
        flight.open_order.num_flying -= 1
        if isinstance(made, GenerationFailure):
            return [failed_outcome(order, prepared.index, made.failure, prepared)]
        return [scored_outcome(self._source, order, prepared, made, self._clock() - flight.submitted_at)]

    def _canary_landed(self, made: Generation | GenerationFailure) -> list[Record]:
        if self._canaries.pop(made.request_id, None) is None:
            return []
        failed = isinstance(made, GenerationFailure)
        self._digests[made.request_id] = "failed" if isinstance(made, GenerationFailure) else canary_digest(made)
        if self._canaries and not failed:
            self._next_canary()
            return []
        self._canaries.clear()
        return [CanaryResult(digests=dict(self._digests))]

    def _watch(self) -> None:
        """Raise EngineStalled when requests are in flight and no token has come for too long."""
        tokens = self._engine.progress().num_tokens_total
        if tokens != self._tokens_seen or not (self._flying or self._canaries):
            self._tokens_seen, self._advanced_at = tokens, self._clock()
        elif self._clock() - self._advanced_at > self._stall_seconds:
            raise EngineStalled(f"no token for {self._stall_seconds:g} s with {len(self._flying)} in flight")

    def _finished(self) -> list[Record]:
        ended = [o for o in self._orders if o.is_finished]
        self._orders = [o for o in self._orders if not o.is_finished]
        return [AttemptEnd(attempt_id=o.order.attempt_id, released=o.released) for o in ended]

    def _give_back(self) -> None:
        self.release()
        self._canary_wanted = self._proves_itself and self._unproven and not self._canaries and not self.is_late
        if not self.is_late:
            self._submit_canary()
            return
        for open_order in self._orders:
            self._abort(open_order)
        for request_id in self._canaries:
            self._engine.abort(request_id)
        self._canaries.clear()

    def _abort(self, open_order: OpenOrder) -> None:
        for request_id, flight in list(self._flying.items()):
            if flight.open_order is open_order:
                self._engine.abort(request_id)
                del self._flying[request_id]
        open_order.released = True
        open_order.num_flying = 0
        open_order.drop_pending()


def _end_of_broken(attempt_id: int, mine: tuple[InFlight, ...], num_in_flight: int, failure: Failure) -> AttemptEnd:
    if not mine:
        return AttemptEnd(attempt_id=attempt_id, released=True)
    return AttemptEnd(attempt_id=attempt_id, failure=failure, in_flight=mine, num_in_flight=num_in_flight)
