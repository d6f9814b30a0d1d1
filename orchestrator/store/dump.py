"""A campaign as plain rows, for a copy in another store or in files. Outcomes stream; the rest is small."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from orchestrator.store.schema import (
    attempts,
    campaigns,
    cells,
    completions,
    events,
    failures,
    outcomes,
    shards,
    ticks,
    workers,
)
from orchestrator.store.session import Store
from orchestrator.store.views import find_campaign

TABLES = {t.name: t for t in (cells, shards, workers, attempts, failures, events, ticks)}
"""What a dump holds besides the campaign's own row and its outcomes, in an order in which they can be inserted."""
PAGE_ROWS = 2000

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Dump:
    """One campaign. Ids are those of the store that it came from."""

    campaign: Mapping[str, Any]
    tables: Mapping[str, list[Row]]
    """Rows by table name; the keys of TABLES."""
    outcomes: Callable[[], Iterator[Row]]
    """A fresh stream of outcome rows, each with its `completion`; ordered by (cell, index)."""


def dump_campaign(store: Store, name: str | None = None) -> Dump:
    """The campaign `name`, or the newest. Raises UnknownCampaign."""
    with store.read() as connection:
        campaign_id = find_campaign(connection, name)
        row = connection.execute(sa.select(campaigns).where(campaigns.c.id == campaign_id)).mappings().one()
        tables = {name: _rows(connection, table, campaign_id) for name, table in TABLES.items()}
    cell_ids = [int(cell["id"]) for cell in tables["cells"]]
    return Dump(_plain(row), tables, lambda: _outcomes(store, cell_ids))


def _rows(connection: sa.Connection, table: sa.Table, campaign_id: int) -> list[Row]:
    if "campaign_id" in table.c:
        wanted = sa.select(table).where(table.c.campaign_id == campaign_id)
    else:
        wanted = sa.select(table).join(cells, cells.c.id == table.c.cell_id).where(cells.c.campaign_id == campaign_id)
    return [_plain(row) for row in connection.execute(wanted.order_by(table.c.id)).mappings()]


def _plain(row: sa.RowMapping) -> Row:
    """Enumerations as their text, so that a row can become JSON."""
    return {key: str(value) if isinstance(value, str) else value for key, value in row.items()}


def _outcomes(store: Store, cell_ids: list[int]) -> Iterator[Row]:
    both = (completions.c.cell_id == outcomes.c.cell_id) & (completions.c.sample_index == outcomes.c.sample_index)
    wanted = sa.select(outcomes, sa.func.coalesce(completions.c.text, "").label("completion"))
    wanted = wanted.select_from(outcomes.outerjoin(completions, both)).order_by(outcomes.c.sample_index)
    for cell_id in cell_ids:
        last = -1
        while True:
            page = wanted.where(outcomes.c.cell_id == cell_id, outcomes.c.sample_index > last).limit(PAGE_ROWS)
            with store.read() as connection:
                rows = [_plain(row) for row in connection.execute(page).mappings()]
            yield from rows
            if len(rows) < PAGE_ROWS:
                break
            last = rows[-1]["sample_index"]


def example_outcomes(store: Store, name: str, verdict: str, limit: int) -> list[Row]:
    """A few outcomes of one verdict, with `completion` and their cell's names; the first recorded ones."""
    both = (completions.c.cell_id == outcomes.c.cell_id) & (completions.c.sample_index == outcomes.c.sample_index)
    names = (cells.c[c] for c in ("model_name", "method_label", "budget", "task_label", "length_tokens"))
    wanted = (
        sa.select(outcomes.c.verdict, outcomes.c.extracted, outcomes.c.reason, completions.c.text, *names)
        .join(cells, cells.c.id == outcomes.c.cell_id)
        .join(completions, both)
        .where(outcomes.c.verdict == verdict)
        .limit(limit)
    )
    with store.read() as connection:
        campaign_id = find_campaign(connection, name)
        return [_plain(row) for row in connection.execute(wanted.where(cells.c.campaign_id == campaign_id)).mappings()]
