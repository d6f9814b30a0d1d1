"""Streaming outcomes, so that millions fit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from orchestrator.store.naming import find_campaign
from orchestrator.store.rows import OutcomeRow
from orchestrator.store.schema import attempts, cells, completions, outcomes
from orchestrator.store.session import Store


def iter_outcomes(
    store: Store, name: str | None = None, *, with_completions: bool = False, chunk: int = 2000
) -> Iterator[OutcomeRow]:
    """Every recorded sample in the order (cell, index), streamed so that millions fit."""
    with store.read() as connection:
        campaign_id = find_campaign(connection, name)
        wanted = connection.execute(
            sa.select(cells.c.id, cells.c.key).where(cells.c.campaign_id == campaign_id).order_by(cells.c.position)
        ).all()
    for cell_id, key in wanted:
        yield from _outcomes_of_cell(store, cell_id, key, with_completions, chunk)


def _outcomes_of_cell(store: Store, cell_id: int, key: str, with_completions: bool, chunk: int) -> Iterator[OutcomeRow]:
    last = -1
    while True:
        with store.read() as connection:
            rows = connection.execute(_outcome_page(cell_id, last, with_completions, chunk)).mappings().all()
        for row in rows:
            yield OutcomeRow(cell_key=key, **row)
        if len(rows) < chunk:
            return
        last = rows[-1]["sample_index"]


def _outcome_page(cell_id: int, after: int, with_completions: bool, chunk: int) -> sa.Select[Any]:
    text = completions.c.text if with_completions else sa.literal("")
    source = outcomes.join(attempts, attempts.c.id == outcomes.c.attempt_id)
    if with_completions:
        source = source.outerjoin(
            completions,
            (completions.c.cell_id == outcomes.c.cell_id) & (completions.c.sample_index == outcomes.c.sample_index),
        )
    return (
        sa.select(*outcomes.c, attempts.c.worker_id, sa.func.coalesce(text, "").label("completion"))
        .select_from(source)
        .where(outcomes.c.cell_id == cell_id, outcomes.c.sample_index > after)
        .order_by(outcomes.c.sample_index)
        .limit(chunk)
    )
