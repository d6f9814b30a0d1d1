"""What happens to a shard when its attempt ends without all outcomes: release, retry, isolation, failure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from orchestrator.domain.retry import (
    Answer,
    Decision,
    RetryPolicy,
    decide,
    decide_unexplained,
    fewer_in_flight,
    is_culprit,
    silence_counts,
)
from orchestrator.domain.states import Ending, ShardState
from orchestrator.store import events, leases, outcomes
from orchestrator.store.campaigns import Grip
from orchestrator.store.events import Event
from orchestrator.store.leases import OpenAttempt
from orchestrator.store.schema import campaigns, cells, failures, shards, suspects
from workers.exchange import AttemptEnd, InFlight
from workers.failures import Failure, FailureKind
from workers.protocol import SampleOutcome


@dataclass(frozen=True, slots=True)
class _Ended:
    attempt: OpenAttempt
    end: AttemptEnd
    decision: Decision


def end_attempts(connection: sa.Connection, grip: Grip, ends: Sequence[AttemptEnd], policy: RetryPolicy) -> None:
    """Close the attempts that their workers ended, and decide what becomes of what is missing."""
    current = leases.open_attempts(connection, {end.attempt_id for end in ends})
    for end in ends:
        attempt = current.pop(end.attempt_id, None)
        if attempt is not None:
            _end_one(connection, grip, attempt, end, policy)


def lose_attempts(
    connection: sa.Connection,
    grip: Grip,
    lost: Iterable[OpenAttempt],
    policy: RetryPolicy,
    kind: FailureKind = FailureKind.WORKER_LOST,
    message: str = "the worker is gone",
    flying: Collection[int] = (),
) -> list[int]:
    """Close attempts whose worker is gone; nobody is charged. Returns their ids.

    `flying` are those that had samples in the engine when the worker was last heard.
    """
    ids = []
    for attempt in lost:
        ids.append(attempt.id)
        failure = Failure(kind=kind, message=message, where="worker")
        flew = kind is FailureKind.WORKER_LOST and attempt.id in flying
        if flew and attempt.num_ordered == 1 and attempt.isolated:
            alone = (InFlight(index=attempt.isolated[0]),)
            _suspect(connection, grip, attempt, alone, 1, _as_crash(failure), policy, silent=True)
        decision = decide(kind, num_in_flight=0)
        _log_failure(connection, grip, _Ended(attempt, AttemptEnd(attempt_id=attempt.id, failure=failure), decision))
        leases.close(connection, grip, [attempt.id], Ending.EXPIRED, kind)
        lossy = flew and attempt.num_recorded == 0
        leases.put_back(connection, grip, [attempt.shard_id], {"num_losses": shards.c.num_losses + int(lossy)})
        _log(connection, grip, attempt, "expired", message)
    return ids


def release_attempts(connection: sa.Connection, grip: Grip, given_back: Iterable[OpenAttempt], why: str) -> None:
    """Close attempts that nothing went wrong with; their shards are ready at once."""
    for attempt in given_back:
        leases.close(connection, grip, [attempt.id], Ending.RELEASED)
        leases.put_back(connection, grip, [attempt.shard_id])
        _log(connection, grip, attempt, "released", why)


def _end_one(connection: sa.Connection, grip: Grip, attempt: OpenAttempt, end: AttemptEnd, policy: RetryPolicy) -> None:
    if end.failure is None and (end.released or attempt.num_ordered < attempt.num_samples):
        release_attempts(connection, grip, [attempt], "given back" if end.released else "tested one sample")
        return
    charged = _charged(connection, attempt.shard_id)
    if end.failure is None:
        _unexplained(connection, grip, attempt, decide_unexplained(charged, policy))
        return
    at_limit = end.num_in_flight <= 1
    decision = decide(end.failure.kind, num_in_flight=len(end.in_flight), at_limit=at_limit)
    ended = _Ended(attempt, end, decision)
    if decision.answer is Answer.ISOLATE:
        _suspect(connection, grip, attempt, end.in_flight, end.num_in_flight, end.failure, policy)
    elif decision.answer is Answer.RECORD:
        _record_failed(connection, grip, attempt, end.in_flight, end.failure, "record")
    _log_failure(connection, grip, ended)
    _settle(connection, grip, ended)


def _settle(connection: sa.Connection, grip: Grip, ended: _Ended) -> None:
    attempt, kind = ended.attempt, ended.end.failure.kind if ended.end.failure else None
    leases.close(connection, grip, [attempt.id], Ending.FAILED, kind)
    answer = ended.decision.answer
    if answer in (Answer.FAIL, Answer.CANCEL):
        target = ShardState.FAILED if answer is Answer.FAIL else ShardState.CANCELLED
        _finish_shard(connection, attempt.shard_id, target)
        _log(connection, grip, attempt, str(target), ended.end.failure.message if ended.end.failure else "")
        return
    lossy = kind is FailureKind.WORKER_LOST and attempt.num_recorded == 0
    leases.put_back(connection, grip, [attempt.shard_id], {"num_losses": shards.c.num_losses + int(lossy)})
    if answer is Answer.FEWER:
        leases.lower_limit(connection, attempt.shard_id, fewer_in_flight(ended.end.num_in_flight))
    _log(connection, grip, attempt, "retry", f"{kind}: {answer}")


def _unexplained(connection: sa.Connection, grip: Grip, attempt: OpenAttempt, decision: Decision) -> None:
    message = f"ended with {attempt.num_recorded} of {attempt.num_ordered} outcomes"
    failure = Failure(kind=FailureKind.BAD_SPEC, message=message, where="worker")
    ended = _Ended(attempt, AttemptEnd(attempt_id=attempt.id, failure=failure), decision)
    _log_failure(connection, grip, ended)
    connection.execute(
        sa.update(shards)
        .where(shards.c.id == attempt.shard_id)
        .values(num_charged=shards.c.num_charged + 1, not_before=grip.now + decision.delay_seconds)
    )
    _settle(connection, grip, ended)


def _suspect(
    connection: sa.Connection,
    grip: Grip,
    attempt: OpenAttempt,
    in_flight: Sequence[InFlight],
    num_in_flight: int,
    failure: Failure,
    policy: RetryPolicy,
    *,
    silent: bool = False,
) -> None:
    """Count an engine's death for each sample that was in flight; quarantine one that did it alone, repeatedly.

    `silent`: nobody told, the worker is gone. A suspect that only silent deaths speak against is kept as worker_lost.
    """
    query = sa.select(suspects.c.sample_index, suspects.c.num_deaths, suspects.c.kind).where(
        suspects.c.cell_id == attempt.cell_id, suspects.c.sample_index.in_([f.index for f in in_flight])
    )
    before = {row.sample_index: row for row in connection.execute(query)}
    for flying in in_flight:
        known = before.get(flying.index)
        deaths = 1 + (known.num_deaths if known else 0)
        was_told = known is not None and known.kind is not FailureKind.WORKER_LOST
        if silent and not silence_counts(was_told, _losses(connection, attempt.shard_id), policy):
            continue
        if is_culprit(deaths, alone=num_in_flight <= 1, policy=policy):
            _quarantine(connection, grip, attempt, flying, failure, deaths)
        else:
            kind = FailureKind.WORKER_LOST if silent else failure.kind
            _write_suspect(connection, attempt, flying.index, deaths, kind, is_new=known is None)


def _losses(connection: sa.Connection, shard_id: int) -> int:
    return int(connection.scalar(sa.select(shards.c.num_losses).where(shards.c.id == shard_id)) or 0)


def _write_suspect(
    connection: sa.Connection, attempt: OpenAttempt, index: int, deaths: int, kind: FailureKind, *, is_new: bool
) -> None:
    key = {"cell_id": attempt.cell_id, "sample_index": index}
    values = {"num_deaths": deaths, "kind": kind, "shard_id": attempt.shard_id}
    if is_new:
        connection.execute(sa.insert(suspects).values(**key, **values))
    else:
        connection.execute(sa.update(suspects).filter_by(**key).values(**values))


def _quarantine(
    connection: sa.Connection, grip: Grip, attempt: OpenAttempt, flying: InFlight, failure: Failure, deaths: int
) -> None:
    message = f"quarantined after {deaths} engine deaths, the last one alone: {failure.message}"
    told = Failure(kind=failure.kind, message=message, where=failure.where, detail=failure.detail)
    _record_failed(connection, grip, attempt, (flying,), told, "quarantine")


def _record_failed(
    connection: sa.Connection,
    grip: Grip,
    attempt: OpenAttempt,
    flying: Sequence[InFlight],
    failure: Failure,
    answer: str,
) -> None:
    reported = [
        SampleOutcome(
            attempt_id=attempt.id,
            shard_id=attempt.shard_id,
            cell_key="",
            index=sample.index,
            sample_key=sample.sample_key,
            prompt_hash=sample.prompt_hash,
            failure=failure,
            extras={"answer": answer, "reproduction": reproduction(connection, grip, attempt.cell_id, sample.index)},
        )
        for sample in flying
    ]
    outcomes.record(connection, grip, reported)


def reproduction(connection: sa.Connection, grip: Grip, cell_id: int, index: int) -> str:
    """The command that runs one sample alone."""
    name = connection.scalar(sa.select(campaigns.c.name).where(campaigns.c.id == grip.campaign_id))
    key = connection.scalar(sa.select(cells.c.key).where(cells.c.id == cell_id))
    return f"frontier reproduce {name} --cell {key} --index {index}"


def _as_crash(failure: Failure) -> Failure:
    return Failure(kind=FailureKind.ENGINE_CRASH, message="the worker's process died", where=failure.where)


def _charged(connection: sa.Connection, shard_id: int) -> int:
    return int(connection.scalar(sa.select(shards.c.num_charged).where(shards.c.id == shard_id)) or 0)


def _finish_shard(connection: sa.Connection, shard_id: int, target: ShardState) -> None:
    connection.execute(
        sa.update(shards).where(shards.c.id == shard_id, shards.c.state == ShardState.LEASED).values(state=target)
    )


def fail_engine(connection: sa.Connection, grip: Grip, engine_key: str, failure: Failure, worker_id: int | None) -> int:
    """An engine that cannot start: its shards fail. Returns how many."""
    failed = connection.execute(
        sa.update(shards)
        .where(
            shards.c.campaign_id == grip.campaign_id,
            shards.c.engine_key == engine_key,
            shards.c.state == ShardState.READY,
        )
        .values(state=ShardState.FAILED)
    ).rowcount
    if failed:
        message = f"{failed} shards failed: {failure.message}"
        log_worker_failure(connection, grip, failure, worker_id, answer=Answer.FAIL, charged=True)
        events.append(
            connection, grip.campaign_id, grip.now, [Event(kind="failed", worker_id=worker_id, message=message)]
        )
    return int(failed)


def log_worker_failure(
    connection: sa.Connection,
    grip: Grip,
    failure: Failure,
    worker_id: int | None,
    *,
    answer: Answer = Answer.AGAIN,
    charged: bool = False,
) -> None:
    """A failure that concerns a worker as a whole."""
    _insert_failure(connection, grip, failure, {"worker_id": worker_id, "charged": charged, "answer": str(answer)})


def _log_failure(connection: sa.Connection, grip: Grip, ended: _Ended) -> None:
    attempt, failure = ended.attempt, ended.end.failure
    assert failure is not None
    place = {
        "cell_id": attempt.cell_id,
        "shard_id": attempt.shard_id,
        "attempt_id": attempt.id,
        "worker_id": attempt.worker_id,
        "charged": ended.decision.charged,
        "answer": str(ended.decision.answer),
    }
    _insert_failure(connection, grip, failure, place)


def _insert_failure(connection: sa.Connection, grip: Grip, failure: Failure, place: Mapping[str, Any]) -> None:
    connection.execute(
        sa.insert(failures).values(
            campaign_id=grip.campaign_id,
            at=grip.now,
            kind=failure.kind,
            place=failure.where,
            message=failure.message.replace("\x00", "\ufffd"),
            detail=failure.detail.replace("\x00", "\ufffd"),
            **place,
        )
    )


def _log(connection: sa.Connection, grip: Grip, attempt: OpenAttempt, kind: str, message: str) -> None:
    place = {"shard_id": attempt.shard_id, "attempt_id": attempt.id, "worker_id": attempt.worker_id}
    events.append(connection, grip.campaign_id, grip.now, [Event(kind=kind, message=message, **place)])
