"""Claims and leases: which worker has which shard, until when. An attempt's id is the fence."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from orchestrator.domain.states import CampaignState, Ending, ShardState
from orchestrator.store import events
from orchestrator.store.campaigns import Grip
from orchestrator.store.events import Event
from orchestrator.store.schema import attempts, cells, outcomes, shards, suspects
from workers.failures import FailureKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A shard that was given to a worker: what its order is made of."""

    attempt_id: int
    shard_id: int
    cell_id: int
    indices: tuple[int, ...]
    isolated: tuple[int, ...]
    max_in_flight: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAttempt:
    """An attempt that is current."""

    id: int
    shard_id: int
    cell_id: int
    worker_id: int
    first_index: int
    num_samples: int
    num_ordered: int
    num_recorded: int
    isolated: Sequence[int]
    max_in_flight: int | None


def claim(
    connection: sa.Connection,
    grip: Grip,
    *,
    worker_id: int,
    engine_key: str,
    num_shards: int,
    lease_seconds: float,
    num_losses_allowed: int,
    executor: str = "",
) -> list[Claim]:
    """Lease up to `num_shards` ready shards of this engine to the worker; none unless the campaign runs."""
    if grip.state is not CampaignState.RUNNING or num_shards < 1:
        return []
    taken = _take(connection, grip, engine_key, num_shards, num_losses_allowed)
    if not taken:
        return []
    missing = missing_indices(connection, taken)
    alone = _suspects_of(connection, [row.id for row in taken])
    plans = [_plan(row, missing[row.id], alone.get(row.id, ()), num_losses_allowed) for row in taken]
    rows = [
        {
            "campaign_id": grip.campaign_id,
            "shard_id": plan["shard_id"],
            "worker_id": worker_id,
            "epoch": grip.fence.epoch,
            "num_ordered": len(plan["indices"]),
            "isolated": list(plan["isolated"]),
            "max_in_flight": plan["max_in_flight"],
            "executor": executor,
            "opened_at": grip.now,
            "lease_until": grip.now + lease_seconds,
        }
        for plan in plans
    ]
    ids = connection.scalars(sa.insert(attempts).returning(attempts.c.id, sort_by_parameter_order=True), rows).all()
    claims = [Claim(attempt_id=i, **plan) for i, plan in zip(ids, plans, strict=True)]
    events.append(
        connection,
        grip.campaign_id,
        grip.now,
        [
            Event(kind="claimed", shard_id=c.shard_id, attempt_id=c.attempt_id, worker_id=worker_id, message=_span(c))
            for c in claims
        ],
    )
    return claims


def _take(
    connection: sa.Connection, grip: Grip, engine_key: str, num_shards: int, num_losses_allowed: int
) -> list[sa.Row[Any]]:
    """By rank; those that were charged, or that cost one worker after another, come last.

    A lost worker's shard keeps its rank, which is ahead of what was never claimed: it is leased again at once.
    """
    costly = sa.case((shards.c.num_losses >= num_losses_allowed, shards.c.num_losses), else_=0)
    ready = (
        sa.select(shards.c.id)
        .where(
            shards.c.campaign_id == grip.campaign_id,
            shards.c.state == ShardState.READY,
            shards.c.engine_key == engine_key,
            shards.c.not_before <= grip.now,
        )
        .order_by(shards.c.num_charged + costly, shards.c.rank)
        .limit(num_shards)
    )
    rows = connection.execute(
        sa.update(shards)
        .where(shards.c.id.in_(ready.scalar_subquery()), shards.c.state == ShardState.READY)
        .values(state=ShardState.LEASED, num_attempts=shards.c.num_attempts + 1)
        .returning(*shards.c)
    ).all()
    return sorted(rows, key=lambda row: row.rank)


def missing_indices(connection: sa.Connection, found: Sequence[Any]) -> dict[int, list[int]]:
    """For each shard row: the sample indices that have no outcome yet, ascending."""
    recorded: dict[int, set[int]] = {row.id: set() for row in found}
    begun = {row.id for row in found if row.num_recorded}
    if begun:
        query = (
            sa.select(shards.c.id, outcomes.c.sample_index)
            .join(
                outcomes,
                (outcomes.c.cell_id == shards.c.cell_id)
                & (outcomes.c.sample_index >= shards.c.first_index)
                & (outcomes.c.sample_index < shards.c.first_index + shards.c.num_samples),
            )
            .where(shards.c.id.in_(begun))
        )
        for shard_id, index in connection.execute(query):
            recorded[shard_id].add(index)
    return {
        row.id: [i for i in range(row.first_index, row.first_index + row.num_samples) if i not in recorded[row.id]]
        for row in found
    }


def _suspects_of(connection: sa.Connection, shard_ids: Collection[int]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    query = sa.select(suspects.c.shard_id, suspects.c.sample_index).where(suspects.c.shard_id.in_(shard_ids))
    for shard_id, index in connection.execute(query.order_by(suspects.c.sample_index)):
        found.setdefault(shard_id, []).append(index)
    return found


def _plan(row: Any, missing: list[int], alone: Sequence[int], num_losses_allowed: int) -> dict[str, Any]:
    """What to order of a shard; after repeated worker losses a single sample, so that a culprit shows itself."""
    indices = tuple(missing)
    isolated = tuple(i for i in alone if i in set(missing))
    if row.num_losses >= num_losses_allowed:
        indices = (isolated or indices)[:1]
        isolated = indices
    return {
        "shard_id": row.id,
        "cell_id": row.cell_id,
        "indices": indices,
        "isolated": isolated,
        "max_in_flight": row.max_in_flight,
    }


def _span(made: Claim) -> str:
    alone = f", {len(made.isolated)} alone" if made.isolated else ""
    return f"{len(made.indices)} samples from {made.indices[0] if made.indices else '-'}{alone}"


def open_attempts(connection: sa.Connection, attempt_ids: Collection[int]) -> dict[int, OpenAttempt]:
    """Those of the attempts that are current, with their shards."""
    return _select_open(connection, attempts.c.id.in_(attempt_ids)) if attempt_ids else {}


def open_attempts_of_worker(connection: sa.Connection, worker_id: int) -> dict[int, OpenAttempt]:
    return _select_open(connection, attempts.c.worker_id == worker_id)


def expired_attempts(connection: sa.Connection, grip: Grip) -> dict[int, OpenAttempt]:
    """Current attempts whose lease has run out by the database's clock."""
    return _select_open(connection, (attempts.c.campaign_id == grip.campaign_id) & (attempts.c.lease_until < grip.now))


def _select_open(connection: sa.Connection, condition: sa.ColumnElement[bool]) -> dict[int, OpenAttempt]:
    own = ("id", "shard_id", "worker_id", "num_ordered", "num_recorded", "isolated", "max_in_flight")
    query = (
        sa.select(*(attempts.c[c] for c in own), shards.c.cell_id, shards.c.first_index, shards.c.num_samples)
        .join(shards, shards.c.id == attempts.c.shard_id)
        .where(condition, attempts.c.closed_at.is_(None))
    )
    return {row["id"]: OpenAttempt(**row) for row in connection.execute(query).mappings()}


def renew(connection: sa.Connection, grip: Grip, worker_ids: Collection[int], lease_seconds: float) -> None:
    """Extend the leases of the workers that were heard."""
    if worker_ids:
        connection.execute(
            sa.update(attempts)
            .where(attempts.c.worker_id.in_(worker_ids), attempts.c.closed_at.is_(None))
            .values(lease_until=grip.now + lease_seconds)
        )


def renew_all(connection: sa.Connection, grip: Grip, lease_seconds: float) -> None:
    """One more term for every open attempt: after a gap of ours, nobody is to blame for silence."""
    connection.execute(
        sa.update(attempts)
        .where(attempts.c.campaign_id == grip.campaign_id, attempts.c.closed_at.is_(None))
        .values(lease_until=grip.now + lease_seconds)
    )


def close(
    connection: sa.Connection,
    grip: Grip,
    attempt_ids: Collection[int],
    ending: Ending,
    kind: FailureKind | None = None,
) -> None:
    """Close attempts once; those already closed stay as they are."""
    if attempt_ids:
        connection.execute(
            sa.update(attempts)
            .where(attempts.c.id.in_(attempt_ids), attempts.c.closed_at.is_(None))
            .values(closed_at=grip.now, ending=ending, failure_kind=kind)
        )


def cancel_shards(connection: sa.Connection, grip: Grip) -> None:
    """Cancel every shard of the campaign that is not finished; its attempts are closed already."""
    connection.execute(
        sa.update(shards)
        .where(shards.c.campaign_id == grip.campaign_id, shards.c.state.in_((ShardState.LEASED, ShardState.READY)))
        .values(state=ShardState.CANCELLED)
    )


def put_back(
    connection: sa.Connection, grip: Grip, shard_ids: Collection[int], changes: Mapping[str, Any] | None = None
) -> None:
    """Leased shards become ready again, with further column changes."""
    if shard_ids:
        connection.execute(
            sa.update(shards)
            .where(shards.c.id.in_(shard_ids), shards.c.state == ShardState.LEASED)
            .values(state=ShardState.READY, **(changes or {}))
        )


def lower_limit(connection: sa.Connection, shard_id: int, limit: int) -> None:
    """This shard, and the others of its engine that are as long or longer, run with fewer in flight from now on."""
    own = sa.select(cells.c.campaign_id, cells.c.engine_key, cells.c.length_tokens)
    row = connection.execute(own.join(shards, shards.c.cell_id == cells.c.id).where(shards.c.id == shard_id)).one()
    alike = sa.select(cells.c.id).where(
        cells.c.campaign_id == row.campaign_id,
        cells.c.engine_key == row.engine_key,
        cells.c.length_tokens >= row.length_tokens,
    )
    above = sa.or_(shards.c.max_in_flight.is_(None), shards.c.max_in_flight > limit)
    connection.execute(sa.update(shards).where(shards.c.cell_id.in_(alike), above).values(max_in_flight=limit))
