"""Campaigns: creating one, and the lease by which a single orchestrator drives it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import sqlalchemy as sa

from orchestrator.domain.cutting import cut_campaign
from orchestrator.domain.grid import Cell
from orchestrator.domain.ordering import ShardCut
from orchestrator.domain.states import CampaignState, ShardState, sources
from orchestrator.errors import StoreError
from orchestrator.store import events
from orchestrator.store.dialect import now_seconds
from orchestrator.store.engine_record import as_before, engine_key, to_json
from orchestrator.store.events import Event
from orchestrator.store.schema import campaigns, cells, shards
from orchestrator.store.session import Store
from orchestrator.store.views import find_campaign

ROWS_A_STATEMENT = 2000


class CampaignBusy(StoreError):
    """Another orchestrator drives this campaign and is alive."""


class Superseded(StoreError):
    """Another orchestrator has taken this campaign over; nothing more may be written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a campaign is cut and driven; frozen with it."""

    samples_per_shard: int = 50
    target_seconds: float | None = None
    """Shards of about this length, of at most `samples_per_shard` samples; None: exactly so many samples."""
    gpu_type: str = "H100"
    """Whose speed the predictions are for; only their ratios decide the order."""
    paired: bool = True
    """The same prompts under all methods close in time."""


@dataclass(frozen=True, slots=True)
class Fence:
    """An orchestrator's right to one campaign: every write names it."""

    campaign_id: int
    epoch: int
    ttl_seconds: float = 10.0


@dataclass(frozen=True, slots=True)
class Grip:
    """A fence that was found valid in this transaction, which now holds the campaign's row."""

    fence: Fence
    state: CampaignState
    now: float

    @property
    def campaign_id(self) -> int:
        return self.fence.campaign_id


LATER_MODEL_FIELDS = (("pipeline_parallel", 1), ("nodes_per_engine", 1))
"""Fields of a model that specs did not have at first, at the values that mean what was before: no part of the hash."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCampaign:
    """What a campaign is made of."""

    name: str
    cells: Sequence[Cell]
    spec: Mapping[str, Any]
    """The validated spec as JSON; what makes two campaigns the same is its hash."""
    engine_name: str = "vllm"
    """Key of `workers.factory`: which engine the workers load."""
    code_revision: str = ""
    settings: Settings = field(default_factory=Settings)
    cuts: Sequence[ShardCut] | None = None
    """The shards, when they were cut elsewhere; None: cut as the settings say."""

    @property
    def spec_hash(self) -> str:
        """The same in every version: a campaign can be continued after an upgrade."""
        identity = {
            "spec": _without_later_fields(self.spec),
            "cells": [cell.key for cell in self.cells],
            "engine": self.engine_name,
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _without_later_fields(spec: Mapping[str, Any]) -> dict[str, Any]:
    if "models" not in spec:
        return dict(spec)
    models = [as_before(model, LATER_MODEL_FIELDS) for model in spec["models"]]
    return {**spec, "models": models}


def create_campaign(store: Store, new: NewCampaign) -> int:
    """Make the campaign with its cells and shards, or find it when it is there with the same spec.

    Raises StoreError when the name is taken by another spec. Returns the campaign's id.
    """
    with store.write() as connection:
        query = sa.select(campaigns.c.id, campaigns.c.spec_hash).where(campaigns.c.name == new.name)
        found = connection.execute(query).one_or_none()
        if found is None:
            return _insert(connection, new)
        if found.spec_hash != new.spec_hash:
            raise StoreError(f"campaign {new.name!r} is already in the store with another spec; choose another name")
        return int(found.id)


def _insert(connection: sa.Connection, new: NewCampaign) -> int:
    now = connection.scalar(sa.select(now_seconds()))
    campaign_id = connection.execute(
        sa.insert(campaigns).values(
            name=new.name,
            state=CampaignState.READY,
            spec=dict(new.spec),
            spec_hash=new.spec_hash,
            code_revision=new.code_revision,
            engine_name=new.engine_name,
            settings=asdict(new.settings),
            created_at=now,
            epoch=0,
        )
    ).inserted_primary_key[0]  # type: ignore[index]
    ids = _insert_cells(connection, campaign_id, new.cells)
    _insert_shards(connection, campaign_id, new, ids)
    events.append(connection, campaign_id, now or 0.0, [Event(kind="created", message=f"{len(new.cells)} cells")])
    return int(campaign_id)


def _insert_cells(connection: sa.Connection, campaign_id: int, grid: Sequence[Cell]) -> list[int]:
    rows = [_cell_row(campaign_id, position, cell) for position, cell in enumerate(grid)]
    for start in range(0, len(rows), ROWS_A_STATEMENT):
        connection.execute(sa.insert(cells), rows[start : start + ROWS_A_STATEMENT])
    query = sa.select(cells.c.id).where(cells.c.campaign_id == campaign_id).order_by(cells.c.position)
    return list(connection.scalars(query))


def _cell_row(campaign_id: int, position: int, cell: Cell) -> dict[str, Any]:
    same = ("key", "model_name", "task_label", "length_tokens", "seed", "num_samples", "method_label", "budget")
    return {
        **{name: getattr(cell, name) for name in same},
        "compression": cell.compression,
        "max_output_tokens": cell.max_output_tokens,
        "campaign_id": campaign_id,
        "position": position,
        "engine_key": engine_key(cell.engine),
        "engine": to_json(cell.engine),
        "task": cell.task.name,
        "task_order": to_json(cell.task),
        "method": {phase: dict(options) for phase, options in cell.method.items()},
        "sampling": dict(cell.sampling),
    }


def _insert_shards(connection: sa.Connection, campaign_id: int, new: NewCampaign, ids: Sequence[int]) -> None:
    id_of = {cell.key: cell_id for cell, cell_id in zip(new.cells, ids, strict=True)}
    key_of = {cell.key: engine_key(cell.engine) for cell in new.cells}
    cuts = _cut(new) if new.cuts is None else new.cuts
    rows = [
        {
            "campaign_id": campaign_id,
            "cell_id": id_of[cut.cell.key],
            "engine_key": key_of[cut.cell.key],
            "rank": cut.rank,
            "first_index": cut.first_index,
            "num_samples": cut.num_samples,
            "predicted_seconds": cut.seconds,
            "state": ShardState.READY,
        }
        for cut in cuts
    ]
    for start in range(0, len(rows), ROWS_A_STATEMENT):
        connection.execute(sa.insert(shards), rows[start : start + ROWS_A_STATEMENT])


def _cut(new: NewCampaign) -> list[ShardCut]:
    return cut_campaign(
        new.cells,
        samples_per_shard=new.settings.samples_per_shard,
        target_seconds=new.settings.target_seconds,
        gpu_type=new.settings.gpu_type,
        paired=new.settings.paired,
    )


def take_over(
    store: Store, name: str, owner: str, *, ttl_seconds: float, is_dead: Callable[[str], bool] = lambda _: False
) -> Fence:
    """Become the campaign's orchestrator and fence off every earlier one.

    `is_dead` may know of an owner that its process is gone; otherwise its lease must have run out.
    Raises CampaignBusy while another one is alive.
    """
    with store.write() as connection:
        campaign_id = find_campaign(connection, name)
        row = connection.execute(
            sa.select(campaigns.c.orchestrator, campaigns.c.orchestrator_until, now_seconds().label("now"))
            .where(campaigns.c.id == campaign_id)
            .with_for_update()
        ).one()
        if row.orchestrator and row.orchestrator_until > row.now and not is_dead(row.orchestrator):
            raise CampaignBusy(
                f"campaign {name!r} is being run by {row.orchestrator}; watch it, or stop that one first"
            )
        epoch = connection.scalar(
            sa.update(campaigns)
            .where(campaigns.c.id == campaign_id)
            .values(
                epoch=campaigns.c.epoch + 1,
                orchestrator=owner,
                orchestrator_until=row.now + ttl_seconds,
                started_at=sa.func.coalesce(campaigns.c.started_at, row.now),
            )
            .returning(campaigns.c.epoch)
        )
        assert epoch is not None
        events.append(connection, campaign_id, row.now, [Event(kind="orchestrator", message=f"{owner}, epoch {epoch}")])
        return Fence(campaign_id, epoch, ttl_seconds)


def hold(connection: sa.Connection, fence: Fence) -> Grip:
    """Renew the campaign's lease and hold its row: first statement of every orchestrator's transaction.

    Raises Superseded when another orchestrator took over.
    """
    now: Any = now_seconds()
    row = connection.execute(
        sa.update(campaigns)
        .where(campaigns.c.id == fence.campaign_id, campaigns.c.epoch == fence.epoch)
        .values(orchestrator_until=now + fence.ttl_seconds)
        .returning(campaigns.c.state, now)
    ).one_or_none()
    if row is None:
        raise Superseded(f"epoch {fence.epoch} of campaign {fence.campaign_id} is over: another orchestrator drives it")
    return Grip(fence, row[0], row[1])


def let_go(store: Store, fence: Fence) -> None:
    """Give the campaign back, so that the next orchestrator need not wait."""
    with store.write() as connection:
        grip = hold(connection, fence)
        connection.execute(
            sa.update(campaigns)
            .where(campaigns.c.id == fence.campaign_id)
            .values(orchestrator=None, orchestrator_until=None)
        )
        events.append(connection, fence.campaign_id, grip.now, [Event(kind="orchestrator", message="let go")])


def change_state(connection: sa.Connection, campaign_id: int, now: float, target: CampaignState, why: str) -> bool:
    """Move the campaign along a legal transition; False when its state does not allow it."""
    values: dict[str, Any] = {"state": target}
    if target in (CampaignState.COMPLETE, CampaignState.CANCELLED):
        values["finished_at"] = now
    elif target is CampaignState.RUNNING:
        values["finished_at"] = None
    changed = connection.execute(
        sa.update(campaigns)
        .where(campaigns.c.id == campaign_id, campaigns.c.state.in_(sources(target)))
        .values(**values)
    ).rowcount
    if changed:
        events.append(connection, campaign_id, now, [Event(kind=str(target), message=why)])
    return bool(changed)
