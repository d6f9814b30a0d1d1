"""What the loop knows about one of its workers."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace

from workers.engine import EngineSpec
from workers.exchange import RECORDS_A_REPORT, Condition, Record, WorkerMessage, WorkerReport
from workers.protocol import ShardOrder

_SPEED_MEMORY_SECONDS = 60.0
_LEAST_NOTES = 5
_ASK_AGAIN_SECONDS = 10.0
MOST_BACKLOG = 2000
"""Records of one worker that are kept here; about 2 KB each."""
MOST_BACKLOGS = 60_000
"""The same of all workers together: what does not fit stays with the workers."""


def most_backlog(num_members: int) -> int:
    """Each worker's share of the records that are kept here."""
    return max(1, min(MOST_BACKLOG, MOST_BACKLOGS // max(1, num_members)))


@dataclass(slots=True, eq=False)
class Member:
    """A worker of this campaign, alive as far as we know."""

    id: int
    name: str
    engine_key: str
    engine: EngineSpec
    heard_at: float
    """Our monotonic clock."""
    nodes: tuple[str, ...] = ()
    """The hosts that were chosen for it; empty when the pool chose."""
    condition: Condition = Condition.LOADING
    is_up: bool = False
    """The store knows that its engine is loaded."""
    seen: int = 0
    acknowledged: int = 0
    backlog: deque[Record] = field(default_factory=deque)
    """Records that have arrived and are not in the store yet, oldest first."""
    open: set[int] = field(default_factory=set)
    """Attempts that the store calls current."""
    delivered: set[int] = field(default_factory=set)
    """Of these, the ones that its latest report must know: sent before it answered."""
    sent: dict[int, int] = field(default_factory=dict)
    """Those on their way, with their samples: no report has answered the message with their orders yet."""
    unproven: bool = False
    """Completions of it are in the store that no canary has vouched for yet."""
    proof_wanted: bool = False
    proof_asked_at: float = float("-inf")
    outbox: list[ShardOrder] = field(default_factory=list)
    withdrawn: set[int] = field(default_factory=set)
    drain_seconds: float | None = None
    told_to_drain: bool = False
    report: WorkerReport | None = None
    """Its latest, without the records: they are in the backlog."""
    asked: int = RECORDS_A_REPORT
    """Records that it was last asked for; the answer may not be here yet."""
    num_told: int = 0
    """Records in its latest report."""
    has_more: bool = False
    """That report had as many as were asked for: the worker may hold others."""
    num_uncounted: int = 0
    """Outcomes recorded since its row was last written."""
    num_spooled: int = 0
    """Records of the backlog that are on the local disk."""
    speed: deque[tuple[float, int]] = field(default_factory=deque)

    @property
    def num_held(self) -> int:
        """Samples that it still has to do, those on their way included."""
        working = self.report.num_pending + self.report.progress.num_in_flight if self.report else 0
        return working + sum(self.sent.values()) + sum(len(order.indices) for order in self.outbox)

    @property
    def has_told_all(self) -> bool:
        """Every record that it holds has been taken in."""
        return not self.backlog and self.report is not None and not (self.num_told or self.has_more)

    @property
    def is_quiet(self) -> bool:
        """It has done and told everything that it was given."""
        return self.has_told_all and not self.num_held

    @property
    def is_idle(self) -> bool:
        """Nothing to do, nothing to tell."""
        return self.is_quiet and not self.open

    def message(self, epoch: int, *, release: bool, most_backlog: int = MOST_BACKLOG) -> WorkerMessage:
        """What to tell it next; orders are sent once. Of its records only those are wanted that fit here."""
        self.asked = min(RECORDS_A_REPORT, max(0, most_backlog - len(self.backlog)))
        message = WorkerMessage(
            epoch=epoch,
            orders=tuple(self.outbox),
            acknowledged=self.acknowledged,
            seen=self.seen,
            withdrawn=tuple(self.withdrawn),
            release=release,
            drain_seconds=None if self.condition in (Condition.DRAINING, Condition.DRAINED) else self.drain_seconds,
            prove=self.proof_wanted,
            room=self.asked,
        )
        self.proof_wanted = False
        self.sent |= {order.attempt_id: len(order.indices) for order in self.outbox}
        self.told_to_drain |= self.drain_seconds is not None
        self.outbox = []
        self.withdrawn.clear()
        return message

    def ask_for_proof(self, now: float) -> None:
        """Have it run its canary; again after a while, in case the message was lost."""
        if now - self.proof_asked_at >= _ASK_AGAIN_SECONDS:
            self.proof_wanted, self.proof_asked_at = True, now

    def hear(self, report: WorkerReport, now: float) -> None:
        """Take in a report: its new records join the backlog, in order; those not asked for stay with the worker."""
        self.heard_at, self.report, self.condition = now, replace(report, records=()), report.condition
        self.num_told, self.has_more = len(report.records), len(report.records) >= self.asked
        self.delivered |= self.sent.keys()
        self.sent.clear()
        if self.seen < report.first_record - 1:  # adopted: an earlier orchestrator acknowledged those before
            self.seen = self.acknowledged = report.first_record - 1
        new = report.records[self.seen + 1 - report.first_record :][: self.asked]
        self.backlog.extend(new)
        self.seen += len(new)

    def committed(self, num_records: int) -> None:
        """The oldest records of the backlog are in the store."""
        for _ in range(num_records):
            self.backlog.popleft()
        self.acknowledged += num_records
        self.num_spooled = max(0, self.num_spooled - num_records)

    def note_speed(self, now: float, num_outcomes: int) -> None:
        self.speed.append((now, num_outcomes))
        while len(self.speed) > _LEAST_NOTES and now - self.speed[0][0] > _SPEED_MEMORY_SECONDS:
            self.speed.popleft()

    @property
    def speed_is_known(self) -> bool:
        """Enough was noted to judge it by."""
        return len(self.speed) >= _LEAST_NOTES and self.per_second() > 0

    def per_second(self) -> float:
        """Outcomes a second over the last minute; 0 until there are some."""
        if len(self.speed) < 2:
            return 0.0
        span = self.speed[-1][0] - self.speed[0][0]
        return sum(n for _, n in list(self.speed)[1:]) / span if span > 1.0 else 0.0

    def strangers(self) -> set[int]:
        """Attempts that it works on although the store has closed them."""
        held = set(self.report.attempts) if self.report else set()
        return held - self.open

    def vanished(self) -> set[int]:
        """Attempts that were delivered and that it no longer knows: lost on the way.

        Its report must answer a later message and hold all of its records, the ends of attempts among them.
        """
        if self.report is None or self.backlog or self.has_more:
            return set()
        return (self.open & self.delivered) - set(self.report.attempts)
