"""One transaction a tick: everything heard is recorded, everything lost is taken back, new work is claimed.

Nothing in memory changes before the commit: a transaction that fails is simply made again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from orchestrator.domain.retry import RetryPolicy
from orchestrator.domain.states import CampaignState
from orchestrator.scheduler.member import Member
from orchestrator.store import canaries, endings, fleet, leases, outcomes
from orchestrator.store.campaigns import Fence, Grip, hold
from orchestrator.store.leases import Claim
from orchestrator.store.outcomes import Recorded
from orchestrator.store.plan import Remaining, open_of_workers, remaining
from orchestrator.store.session import Connection
from workers.exchange import AttemptEnd, CanaryResult, Record, unproven_after
from workers.failures import FailureKind
from workers.protocol import SampleOutcome

RECORDS_A_COMMIT = 10_000


@dataclass(frozen=True, slots=True)
class Loss:
    """A worker that is gone with what it had."""

    member: Member
    reason: str
    kind: FailureKind = FailureKind.WORKER_LOST
    ended_orderly: bool = False
    """It reported the end of every order itself; what is still open never reached it."""


@dataclass(slots=True)
class Committed:
    """What a transaction did; applied to memory afterwards."""

    grip: Grip
    num_records: dict[int, int] = field(default_factory=dict)
    """By worker id: how many of its oldest records are in the store now."""
    num_outcomes: dict[int, int] = field(default_factory=dict)
    distrusted: dict[int, str] = field(default_factory=dict)
    """Workers whose canary disagreed, with the reason."""
    unproven: set[int] = field(default_factory=set)
    """Workers with completions in the store that no canary has vouched for yet."""
    open: dict[int, set[int]] = field(default_factory=dict)
    remaining: dict[str, Remaining] = field(default_factory=dict)
    num_refused: int = 0
    num_new: int = 0


def record_heard(connection: Connection, fence: Fence, members: Sequence[Member], policy: RetryPolicy) -> Committed:
    """Write the backlogs, oldest first, up to a bounded number of records, each worker its share."""
    grip = hold(connection, fence)
    done = Committed(grip)
    note_loaded(connection, grip, members)
    done.num_records = _shares(members)
    batch = {m.id: list(islice(m.backlog, done.num_records[m.id])) for m in members}
    done.unproven = {m.id for m in members if unproven_after(batch[m.id], m.unproven)}
    for part in _in_order(batch):
        _write(connection, grip, part, policy, done)
    return done


def _shares(members: Sequence[Member]) -> dict[int, int]:
    """How many records of each to write now: what the small backlogs leave of their share goes to the large ones."""
    room, shares = RECORDS_A_COMMIT, {}
    by_size = sorted(members, key=lambda m: len(m.backlog))
    for place, member in enumerate(by_size):
        shares[member.id] = min(len(member.backlog), -(-room // (len(by_size) - place)))
        room -= shares[member.id]
    return shares


def _in_order(batch: Mapping[int, Sequence[Record]]) -> list[dict[int, list[Record]]]:
    """Cut each worker's records at its canaries: what came before one is judged by it."""
    parts: list[dict[int, list[Record]]] = [{}]
    for worker_id, records in batch.items():
        place = 0
        for record in records:
            if isinstance(record, CanaryResult):
                place += 1
            while len(parts) <= place:
                parts.append({})
            parts[place].setdefault(worker_id, []).append(record)
    return parts


def _write(
    connection: Connection,
    grip: Grip,
    part: Mapping[int, Sequence[Record]],
    policy: RetryPolicy,
    done: Committed,
) -> None:
    for worker_id, records in part.items():
        if isinstance(records[0], CanaryResult):
            verdict = canaries.judge(connection, grip, worker_id, records[0])
            if verdict is not None:
                done.distrusted[worker_id] = verdict
    reported = {
        worker_id: [r for r in records if isinstance(r, SampleOutcome)]
        for worker_id, records in part.items()
        if worker_id not in done.distrusted
    }
    written = outcomes.record(connection, grip, [o for own in reported.values() for o in own])
    _count(done, written, {worker_id: len(own) for worker_id, own in reported.items()})
    ends = [r for records in part.values() for r in records if isinstance(r, AttemptEnd)]
    endings.end_attempts(connection, grip, ends, policy)


def _count(done: Committed, written: Recorded, numbers: Mapping[int, int]) -> None:
    for worker_id, number in numbers.items():
        done.num_outcomes[worker_id] = done.num_outcomes.get(worker_id, 0) + number
    done.num_refused += written.num_refused
    done.num_new += written.num_new


def take_back(connection: Connection, grip: Grip, losses: Sequence[Loss], policy: RetryPolicy) -> None:
    """Lost workers' attempts are closed and their shards are ready again."""
    for loss in losses:
        lost = leases.open_attempts_of_worker(connection, loss.member.id).values()
        if loss.ended_orderly:
            endings.release_attempts(connection, grip, lost, "the order came too late")
            continue
        flying = loss.member.report.flying if loss.member.report else ()
        endings.lose_attempts(connection, grip, lost, policy, loss.kind, loss.reason, flying)


def reap(connection: Connection, grip: Grip, policy: RetryPolicy) -> list[int]:
    """Attempts whose lease has run out by the database's clock. Returns their workers."""
    expired = leases.expired_attempts(connection, grip)
    endings.lose_attempts(connection, grip, expired.values(), policy, message="its lease ran out")
    return sorted({attempt.worker_id for attempt in expired.values()})


def look_around(connection: Connection, done: Committed) -> None:
    """Read back what is current, for memory to follow."""
    done.open = open_of_workers(connection, done.grip.campaign_id)
    done.remaining = remaining(connection, done.grip.campaign_id)


def claim_for(
    connection: Connection, grip: Grip, member: Member, num_shards: int, *, lease_seconds: float, policy: RetryPolicy
) -> list[Claim]:
    """Lease shards to one worker; none unless the campaign runs."""
    if grip.state is not CampaignState.RUNNING:
        return []
    return leases.claim(
        connection,
        grip,
        worker_id=member.id,
        engine_key=member.engine_key,
        num_shards=num_shards,
        lease_seconds=lease_seconds,
        num_losses_allowed=policy.max_losses_without_progress,
        executor=member.report.facts.executor if member.report and member.report.facts else "",
    )


def note_loaded(connection: Connection, grip: Grip, members: Sequence[Member]) -> None:
    """Keep the facts of engines that have come up."""
    for member in members:
        if not member.is_up and member.report is not None and member.report.facts is not None:
            fleet.is_up(connection, grip, member.id, member.report)


def note_progress(connection: Connection, grip: Grip, members: Sequence[Member], done: Committed) -> None:
    """Keep where each worker stands."""
    heard = [
        (m.id, m.report, m.num_uncounted + done.num_outcomes.get(m.id, 0)) for m in members if m.report is not None
    ]
    fleet.heard(connection, grip, heard)
