"""Copying the rows of a dump beside its outcomes: what is new gets an id here, what is here already is found again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import sqlalchemy as sa

from orchestrator.domain.states import Ending, ShardState, WorkerState
from orchestrator.store.counting import CELL_COUNTERS
from orchestrator.store.dump import Dump, Row
from orchestrator.store.schema import attempts, cells, events, failures, shards, ticks, workers


class _Known(NamedTuple):
    """A worker that is here."""

    id: int
    campaign_id: int
    started_at: float


@dataclass(slots=True)
class Ids:
    """Ids here by ids there."""

    cells: dict[int, int] = field(default_factory=dict)
    shards: dict[int, int] = field(default_factory=dict)
    workers: dict[int, int] = field(default_factory=dict)
    attempts: dict[int, int] = field(default_factory=dict)


def own_values(table: sa.Table, row: Mapping[str, Any]) -> Row:
    return {c.name: row[c.name] for c in table.c if c.name in row and c.name != "id"}


def insert_row(connection: sa.Connection, table: sa.Table, values: Mapping[str, Any]) -> int:
    return int(connection.execute(sa.insert(table).values(values)).inserted_primary_key[0])  # type: ignore[index]


def copy_rows(connection: sa.Connection, dump: Dump, campaign_id: int, *, fresh: bool, now: float) -> Ids:
    ids = Ids()
    _copy_cells(connection, dump, campaign_id, ids, fresh)
    _copy_shards(connection, dump, campaign_id, ids, fresh)
    _copy_workers(connection, dump, campaign_id, ids)
    _copy_attempts(connection, dump, campaign_id, ids, now)
    if fresh:
        for table in (failures, events, ticks):
            rows = [_moved(table, row, campaign_id, ids) for row in dump.tables[table.name]]
            if rows:
                connection.execute(sa.insert(table), rows)
    return ids


def _moved(table: sa.Table, row: Row, campaign_id: int, ids: Ids) -> Row:
    """A row with its references pointing here; those to things that are not here become null."""
    values = own_values(table, row) | {"campaign_id": campaign_id}
    for column, known in (("cell_id", ids.cells), ("shard_id", ids.shards), ("worker_id", ids.workers)):
        if column in values:
            values[column] = known.get(row[column])
    if "attempt_id" in values:
        values["attempt_id"] = ids.attempts.get(row["attempt_id"])
    return values


def _copy_cells(connection: sa.Connection, dump: Dump, campaign_id: int, ids: Ids, fresh: bool) -> None:
    if fresh:
        zero = dict.fromkeys(CELL_COUNTERS, 0) | {"campaign_id": campaign_id}
        zero = {key: value for key, value in zero.items() if key in cells.c}
        for row in dump.tables["cells"]:
            ids.cells[row["id"]] = insert_row(connection, cells, own_values(cells, row) | zero)
        return
    query = sa.select(cells.c.key, cells.c.id).where(cells.c.campaign_id == campaign_id)
    here = {row.key: row.id for row in connection.execute(query)}
    ids.cells.update({row["id"]: here[row["key"]] for row in dump.tables["cells"]})


def _copy_shards(connection: sa.Connection, dump: Dump, campaign_id: int, ids: Ids, fresh: bool) -> None:
    if fresh:
        for row in dump.tables["shards"]:
            values = own_values(shards, row) | {"campaign_id": campaign_id, "cell_id": ids.cells[row["cell_id"]]}
            state = ShardState.READY if row["state"] in (ShardState.LEASED, ShardState.DONE) else row["state"]
            ids.shards[row["id"]] = insert_row(connection, shards, values | {"num_recorded": 0, "state": state})
        return
    columns = (shards.c.cell_id, shards.c.first_index, shards.c.id)
    query = sa.select(*columns).where(shards.c.campaign_id == campaign_id).order_by(shards.c.first_index)
    starts: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for cell_id, first, shard_id in connection.execute(query):
        starts[cell_id].append((first, shard_id))
    for row in dump.tables["shards"]:
        before = [shard for first, shard in starts[ids.cells[row["cell_id"]]] if first <= row["first_index"]]
        ids.shards[row["id"]] = before[-1]


def _copy_workers(connection: sa.Connection, dump: Dump, campaign_id: int, ids: Ids) -> None:
    """A worker that is here already (same name and start, same campaign) is found again; names stay unique."""
    columns = (workers.c.name, workers.c.id, workers.c.campaign_id, workers.c.started_at)
    here = {
        row.name: _Known(row.id, row.campaign_id, row.started_at) for row in connection.execute(sa.select(*columns))
    }
    for row in dump.tables["workers"]:
        same = here.get(row["name"])
        if same is not None and same.campaign_id == campaign_id and same.started_at == row["started_at"]:
            ids.workers[row["id"]] = same.id
            continue
        values = own_values(workers, row) | {"campaign_id": campaign_id, "state": WorkerState.STOPPED}
        values["name"] = row["name"] if same is None else f"{row['name']}@{campaign_id}-{len(here)}"
        ids.workers[row["id"]] = insert_row(connection, workers, values)
        here[values["name"]] = _Known(ids.workers[row["id"]], campaign_id, row["started_at"])


def _copy_attempts(connection: sa.Connection, dump: Dump, campaign_id: int, ids: Ids, now: float) -> None:
    columns = (attempts.c.id, attempts.c.shard_id, attempts.c.worker_id, attempts.c.opened_at)
    query = sa.select(*columns).where(attempts.c.campaign_id == campaign_id)
    here = {(row.shard_id, row.worker_id, row.opened_at): row.id for row in connection.execute(query)}
    for row in dump.tables["attempts"]:
        shard, worker = ids.shards[row["shard_id"]], ids.workers[row["worker_id"]]
        known = here.get((shard, worker, row["opened_at"]))
        if known is None:
            values = own_values(attempts, row) | {"campaign_id": campaign_id, "shard_id": shard, "worker_id": worker}
            if row["closed_at"] is None:
                values |= {"closed_at": now, "ending": Ending.RELEASED}
            known = insert_row(connection, attempts, values)
        ids.attempts[row["id"]] = known
