"""What a person does to a campaign: pause, resume, cancel, requeue. The orchestrator follows within a tick."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import sqlalchemy as sa

from orchestrator.domain.states import CampaignState, ShardState, check_transition
from orchestrator.errors import StoreError
from orchestrator.store import events
from orchestrator.store.campaigns import Fence, Grip, change_state
from orchestrator.store.canaries import remove_outcomes
from orchestrator.store.dialect import now_seconds
from orchestrator.store.events import Event
from orchestrator.store.schema import campaigns, cells, outcomes, shards, suspects
from orchestrator.store.session import Store
from orchestrator.store.views import find_campaign
from workers.failures import FailureKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Requeued:
    """What was put back."""

    num_shards: int
    num_outcomes: int
    """Failures that were taken back, so that their samples run again."""


def pause(store: Store, name: str | None) -> CampaignState:
    """Claim nothing more; what runs is finished or given back."""
    with store.write() as connection:
        grip = _grip(connection, name)
        if grip.state is not CampaignState.PAUSED:
            _change(connection, grip, CampaignState.PAUSED, "paused by a person")
    return CampaignState.PAUSED


def resume(store: Store, name: str | None) -> CampaignState:
    """Undo a pause; a running orchestrator goes on, otherwise the next `frontier run` does.

    A campaign that is not paused keeps its state. Raises StoreError when it is cancelled.
    """
    with store.write() as connection:
        grip = _grip(connection, name)
        if grip.state is CampaignState.CANCELLED:
            raise StoreError("the campaign is cancelled; `frontier requeue` takes up what is left of it")
        if grip.state is not CampaignState.PAUSED:
            return grip.state
        _change(connection, grip, CampaignState.RUNNING, "resumed by a person")
    return CampaignState.RUNNING


def cancel(store: Store, name: str | None) -> CampaignState:
    """End a campaign for good; what is recorded stays."""
    with store.write() as connection:
        grip = _grip(connection, name)
        _change(connection, grip, CampaignState.CANCELLED, "cancelled by a person")
        connection.execute(
            sa.update(shards)
            .where(shards.c.campaign_id == grip.campaign_id, shards.c.state == ShardState.READY)
            .values(state=ShardState.CANCELLED)
        )
    return CampaignState.CANCELLED


def requeue(store: Store, name: str | None, kinds: Collection[FailureKind] = ()) -> Requeued:
    """Run failed samples and shards again: those of `kinds`, or all. Failures taken back lose their record."""
    with store.write() as connection:
        grip = _grip(connection, name)
        taken_back = _remove_failures(connection, grip, kinds)
        revived = 0 if kinds else _revive(connection, grip)
        _forget_suspects(connection, grip)
        left = sa.select(sa.func.count()).where(
            shards.c.campaign_id == grip.campaign_id, shards.c.state == ShardState.READY
        )
        ready = int(connection.scalar(left) or 0)
        if ready and grip.state in (CampaignState.COMPLETE, CampaignState.CANCELLED):
            _change(connection, grip, CampaignState.RUNNING, "requeued by a person")
        message = f"{taken_back} failures and {revived} shards"
        events.append(connection, grip.campaign_id, grip.now, [Event(kind="requeued", message=message)])
    return Requeued(num_shards=ready, num_outcomes=taken_back)


def _change(connection: sa.Connection, grip: Grip, target: CampaignState, why: str) -> None:
    try:
        check_transition(grip.state, target)
    except ValueError:
        raise StoreError(f"the campaign is {grip.state}; it cannot become {target}") from None
    change_state(connection, grip.campaign_id, grip.now, target, why)


def _grip(connection: sa.Connection, name: str | None) -> Grip:
    """The campaign as it is now, its row held against an orchestrator's transaction."""
    campaign_id = find_campaign(connection, name)
    row = connection.execute(
        sa.select(campaigns.c.state, campaigns.c.epoch, now_seconds().label("now"))
        .where(campaigns.c.id == campaign_id)
        .with_for_update()
    ).one()
    return Grip(Fence(campaign_id, row.epoch), row.state, row.now)


def _remove_failures(connection: sa.Connection, grip: Grip, kinds: Collection[FailureKind]) -> int:
    mine = sa.select(cells.c.id).where(cells.c.campaign_id == grip.campaign_id)
    failed = outcomes.c.failure_kind.in_(kinds) if kinds else outcomes.c.failure_kind.is_not(None)
    return remove_outcomes(connection, grip, sa.and_(outcomes.c.cell_id.in_(mine), failed))


def _revive(connection: sa.Connection, grip: Grip) -> int:
    done = connection.execute(
        sa.update(shards)
        .where(
            shards.c.campaign_id == grip.campaign_id,
            shards.c.state.in_((ShardState.FAILED, ShardState.CANCELLED)),
        )
        .values(state=ShardState.READY, num_charged=0, num_losses=0, not_before=0.0)
    )
    return int(done.rowcount)


def _forget_suspects(connection: sa.Connection, grip: Grip) -> None:
    mine = sa.select(shards.c.id).where(shards.c.campaign_id == grip.campaign_id)
    connection.execute(sa.delete(suspects).where(suspects.c.shard_id.in_(mine)))
