"""What an orchestrator must know before its first order: the cells as orders need them, and what is left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from orchestrator.domain.states import CampaignState, ShardState
from orchestrator.store.campaigns import Fence, Grip, Settings, change_state
from orchestrator.store.dialect import now_seconds
from orchestrator.store.engine_record import engine_from_json, task_from_json
from orchestrator.store.schema import attempts, campaigns, cells, shards, ticks
from orchestrator.store.session import Store
from workers.engine import EngineSpec
from workers.protocol import TaskOrder


@dataclass(frozen=True, slots=True, kw_only=True)
class CellPlan:
    """A cell as its orders need it."""

    id: int
    key: str
    engine_key: str
    task: TaskOrder
    length_tokens: int
    seed: int
    method: Mapping[str, Mapping[str, Any]]
    max_output_tokens: int
    sampling: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignPlan:
    """The unchanging part of a campaign."""

    id: int
    name: str
    engine_name: str
    settings: Settings
    cells: Mapping[int, CellPlan]
    engines: Mapping[str, EngineSpec]
    model_names: Mapping[str, str]
    """By engine key."""
    gpu_hours: float | None = None
    """The spec's budget."""
    priority: int = 0
    """Above those of other campaigns on the same cluster: it gets their GPUs."""


@dataclass(frozen=True, slots=True)
class Remaining:
    """What is left of one engine's work: ready shards and their missing samples."""

    num_shards: int
    num_samples: int
    seconds: float = 0.0
    """Predicted, of one engine, for all samples without an outcome, those of leased shards included."""


def load_plan(store: Store, fence: Fence) -> CampaignPlan:
    with store.read() as connection:
        head = connection.execute(sa.select(campaigns).where(campaigns.c.id == fence.campaign_id)).mappings().one()
        rows = connection.execute(sa.select(cells).where(cells.c.campaign_id == fence.campaign_id)).mappings().all()
    engines: dict[str, EngineSpec] = {}
    for row in rows:
        if row["engine_key"] not in engines:
            engines[row["engine_key"]] = engine_from_json(row["engine"])
    return CampaignPlan(
        id=head["id"],
        name=head["name"],
        engine_name=head["engine_name"],
        settings=Settings(**head["settings"]),
        cells={row["id"]: _cell_plan(row) for row in rows},
        engines=engines,
        model_names={row["engine_key"]: row["model_name"] for row in rows},
        gpu_hours=head["spec"].get("gpu_hours"),
        priority=int(head["spec"].get("priority") or 0),
    )


def _cell_plan(row: sa.RowMapping) -> CellPlan:
    same = ("id", "key", "engine_key", "length_tokens", "seed", "method", "max_output_tokens", "sampling")
    return CellPlan(**{name: row[name] for name in same}, task=task_from_json(row["task_order"]))


def find_cell(store: Store, campaign_id: int, key: str) -> tuple[CellPlan, EngineSpec, int] | None:
    """A cell by its key, with its engine and its number of samples."""
    with store.read() as connection:
        query = sa.select(cells).where(cells.c.campaign_id == campaign_id, cells.c.key == key)
        row = connection.execute(query).mappings().one_or_none()
    if row is None:
        return None
    return _cell_plan(row), engine_from_json(row["engine"]), row["num_samples"]


def remaining(connection: sa.Connection, campaign_id: int) -> dict[str, Remaining]:
    """Unfinished shards by engine key: how many are ready, with their missing samples, and the work in all of them."""
    is_ready = shards.c.state == ShardState.READY
    missing = shards.c.num_samples - shards.c.num_recorded
    query = (
        sa.select(
            shards.c.engine_key,
            sa.cast(sa.func.sum(sa.case((is_ready, 1), else_=0)), sa.Integer),
            sa.cast(sa.func.sum(sa.case((is_ready, missing), else_=0)), sa.Integer),
            sa.func.sum(shards.c.predicted_seconds * missing / shards.c.num_samples),
        )
        .where(shards.c.campaign_id == campaign_id, shards.c.state.in_((ShardState.READY, ShardState.LEASED)))
        .group_by(shards.c.engine_key)
    )
    return {key: Remaining(count, samples, seconds) for key, count, samples, seconds in connection.execute(query)}


def num_unfinished(connection: sa.Connection, campaign_id: int) -> int:
    """Shards that are ready or leased."""
    query = sa.select(sa.func.count()).where(
        shards.c.campaign_id == campaign_id, shards.c.state.in_((ShardState.READY, ShardState.LEASED))
    )
    return int(connection.scalar(query) or 0)


def begin(connection: sa.Connection, grip: Grip) -> None:
    """A campaign that was never run, or has been requeued, runs now."""
    unfinished = num_unfinished(connection, grip.campaign_id)
    if grip.state is CampaignState.READY or (grip.state is CampaignState.COMPLETE and unfinished):
        change_state(connection, grip.campaign_id, grip.now, CampaignState.RUNNING, "started")


def note_tick(connection: sa.Connection, grip: Grip, *, num_in_flight: int, num_workers: int) -> None:
    """Remember the totals now, so that speeds are differences."""
    summed = ("num_recorded", "prompt_tokens", "output_tokens")
    totals = (
        connection.execute(
            sa.select(
                *(sa.cast(sa.func.coalesce(sa.func.sum(cells.c[c]), 0), sa.BigInteger).label(c) for c in summed)
            ).where(cells.c.campaign_id == grip.campaign_id)
        )
        .mappings()
        .one()
    )
    row = {**totals, "num_in_flight": num_in_flight, "num_workers": num_workers}
    connection.execute(sa.insert(ticks).values(campaign_id=grip.campaign_id, at=grip.now, **row))


def open_of_workers(connection: sa.Connection, campaign_id: int) -> dict[int, set[int]]:
    """Current attempts by worker."""
    found: dict[int, set[int]] = {}
    query = sa.select(attempts.c.worker_id, attempts.c.id).where(
        attempts.c.campaign_id == campaign_id, attempts.c.closed_at.is_(None)
    )
    for worker_id, attempt_id in connection.execute(query):
        found.setdefault(worker_id, set()).add(attempt_id)
    return found


def store_clock(store: Store) -> float:
    """The database's clock, seconds since 1970."""
    with store.read() as connection:
        return float(connection.scalar(sa.select(now_seconds())) or 0.0)
