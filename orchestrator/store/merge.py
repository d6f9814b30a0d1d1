"""Taking a campaign from elsewhere into a store, by identity: cells by their key, outcomes by (cell, index).

A campaign that is not there yet is copied whole. One of the same name and spec receives what it lacks. An
outcome that is there with another answer or score is a conflict: by default nothing is then written at all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import islice
from types import SimpleNamespace

import sqlalchemy as sa

from orchestrator.domain.states import CampaignState, ShardState
from orchestrator.errors import StoreError
from orchestrator.store.copy_rows import Ids, copy_rows, insert_row, own_values
from orchestrator.store.counting import CELL_COUNTERS, change_cells, contribution
from orchestrator.store.dialect import now_seconds
from orchestrator.store.dump import Dump, Row
from orchestrator.store.schema import campaigns, cells, completions, outcomes, shards
from orchestrator.store.session import Store

CHUNK_ROWS = 1000
DECISIVE = ("sample_key", "prompt_hash", "verdict", "score", "extracted", "failure_kind", "completion")
"""Two outcomes of one sample agree when these do; times and densities of a repeated run may differ."""
SHOWN_CONFLICTS = 3


class OnConflict(StrEnum):
    """What to do with an outcome that the store has in another form."""

    REFUSE = "refuse"
    KEEP = "keep"
    REPLACE = "replace"


@dataclass(frozen=True, slots=True)
class Merged:
    """What came of it."""

    campaign: str
    created: bool
    num_new: int = 0
    num_same: int = 0
    num_conflicts: int = 0
    examples: tuple[str, ...] = ()


def merge_campaign(
    store: Store, dump: Dump, *, name: str | None = None, on_conflict: OnConflict = OnConflict.REFUSE
) -> Merged:
    """Take `dump` into `store` under its own name or `name`, in one transaction.

    Raises StoreError when the name belongs to another spec, when an orchestrator drives the campaign here,
    when there are conflicts and they are refused, or when a row is none of a store; nothing is written then.
    """
    try:
        return _merge(store, dump, name, on_conflict)
    except (sa.exc.StatementError, KeyError, TypeError, ValueError) as error:
        told = str(getattr(error, "orig", None) or error).splitlines()[0]
        raise StoreError(f"the campaign cannot be imported, a row of it fits no store: {told}") from error


def _merge(store: Store, dump: Dump, name: str | None, on_conflict: OnConflict) -> Merged:
    wanted = name or str(dump.campaign["name"])
    with store.write() as connection:
        now = float(connection.scalar(sa.select(now_seconds())) or 0.0)
        found = connection.execute(sa.select(campaigns).where(campaigns.c.name == wanted)).mappings().one_or_none()
        if found is not None:
            _check(found, dump, now)
        campaign_id = int(found["id"]) if found is not None else _new_campaign(connection, dump, wanted)
        ids = copy_rows(connection, dump, campaign_id, fresh=found is None, now=now)
        merged = _merge_outcomes(connection, dump, ids, on_conflict)
        if merged.num_conflicts and on_conflict is OnConflict.REFUSE:
            raise StoreError(
                f"campaign {wanted!r}: {merged.num_conflicts} outcomes are in the store with another answer or score "
                f"({'; '.join(merged.examples)}); nothing was imported"
            )
        _settle(connection, campaign_id)
    return replace(merged, campaign=wanted, created=found is None)


def _check(found: sa.RowMapping, dump: Dump, now: float) -> None:
    if found["spec_hash"] != dump.campaign["spec_hash"]:
        raise StoreError(f"campaign {found['name']!r} is already in the store with another spec; choose another name")
    if found["orchestrator"] and (found["orchestrator_until"] or 0.0) > now:
        raise StoreError(f"campaign {found['name']!r} is being driven by {found['orchestrator']}; stop it first")


def _new_campaign(connection: sa.Connection, dump: Dump, name: str) -> int:
    values = own_values(campaigns, dump.campaign) | {"name": name, "epoch": 0}
    values |= {"orchestrator": None, "orchestrator_until": None}
    if values["state"] == CampaignState.RUNNING:
        values["state"] = CampaignState.PAUSED
    return insert_row(connection, campaigns, values)


def _merge_outcomes(connection: sa.Connection, dump: Dump, ids: Ids, on_conflict: OnConflict) -> Merged:
    new = same = conflicts = 0
    examples: list[str] = []
    for chunk in _chunks(dump.outcomes()):
        rows = [
            own_values(outcomes, r) | {"cell_id": ids.cells[r["cell_id"]], "completion": r["completion"]} for r in chunk
        ]
        for row in rows:
            row["attempt_id"] = ids.attempts[row["attempt_id"]]
        here = _present(connection, rows)
        fresh = [row for row in rows if (row["cell_id"], row["sample_index"]) not in here]
        differing = [row for row in rows if _differs(row, here.get((row["cell_id"], row["sample_index"])))]
        examples += [f"cell {row['cell_id']}, sample {row['sample_index']}" for row in differing]
        del examples[SHOWN_CONFLICTS:]
        _write(connection, fresh)
        if on_conflict is OnConflict.REPLACE:
            _remove(connection, differing, here)
            _write(connection, differing)
        new, conflicts = new + len(fresh), conflicts + len(differing)
        same += len(rows) - len(fresh) - len(differing)
    return Merged("", False, new, same, conflicts, tuple(examples))


def _chunks(rows: Iterator[Row]) -> Iterator[list[Row]]:
    while chunk := list(islice(rows, CHUNK_ROWS)):
        yield chunk


def _present(connection: sa.Connection, rows: list[Row]) -> dict[tuple[int, int], sa.RowMapping]:
    """The outcomes here with the keys of `rows`, which come ordered by cell and index."""
    both = (completions.c.cell_id == outcomes.c.cell_id) & (completions.c.sample_index == outcomes.c.sample_index)
    wanted = sa.select(outcomes, sa.func.coalesce(completions.c.text, "").label("completion"))
    wanted = wanted.select_from(outcomes.outerjoin(completions, both))
    spans: dict[int, list[int]] = defaultdict(list)
    for row in rows:
        spans[row["cell_id"]].append(row["sample_index"])
    found: dict[tuple[int, int], sa.RowMapping] = {}
    for cell_id, indices in spans.items():
        inside = outcomes.c.sample_index.between(min(indices), max(indices))
        for row_here in connection.execute(wanted.where(outcomes.c.cell_id == cell_id, inside)).mappings():
            found[cell_id, row_here["sample_index"]] = row_here
    return found


def _differs(row: Row, here: sa.RowMapping | None) -> bool:
    return here is not None and any((row[name] or None) != (here[name] or None) for name in DECISIVE if name in row)


def _write(connection: sa.Connection, rows: list[Row]) -> None:
    if not rows:
        return
    connection.execute(sa.insert(outcomes), [{k: v for k, v in row.items() if k != "completion"} for row in rows])
    texts = [{"cell_id": r["cell_id"], "sample_index": r["sample_index"], "text": r["completion"]} for r in rows]
    texts = [text for text in texts if text["text"]]
    if texts:
        connection.execute(sa.insert(completions), texts)
    _count(connection, rows, 1)


def _remove(connection: sa.Connection, rows: list[Row], here: Mapping[tuple[int, int], sa.RowMapping]) -> None:
    for row in rows:
        for table in (completions, outcomes):
            connection.execute(
                sa.delete(table).where(table.c.cell_id == row["cell_id"], table.c.sample_index == row["sample_index"])
            )
    _count(connection, [dict(here[row["cell_id"], row["sample_index"]]) for row in rows], -1)


def _count(connection: sa.Connection, rows: list[Row], sign: int) -> None:
    totals: dict[int, dict[str, float]] = defaultdict(lambda: dict.fromkeys(CELL_COUNTERS, 0))
    for row in rows:
        for name, value in contribution(SimpleNamespace(**row)).items():
            totals[row["cell_id"]][name] += sign * value
    change_cells(connection, totals)


def _settle(connection: sa.Connection, campaign_id: int) -> None:
    """Shards and cells learn from the outcomes what is done and when; the campaign too when nothing is left."""
    inside = (
        (outcomes.c.cell_id == shards.c.cell_id)
        & (outcomes.c.sample_index >= shards.c.first_index)
        & (outcomes.c.sample_index < shards.c.first_index + shards.c.num_samples)
    )
    count = sa.select(sa.func.count()).select_from(outcomes).where(inside).scalar_subquery()
    mine = shards.c.campaign_id == campaign_id
    connection.execute(sa.update(shards).where(mine).values(num_recorded=count))
    full = shards.c.num_recorded == shards.c.num_samples
    connection.execute(sa.update(shards).where(mine, full).values(state=ShardState.DONE))
    for name, pick in (("first_recorded_at", sa.func.min), ("last_recorded_at", sa.func.max)):
        when = sa.select(pick(outcomes.c.recorded_at)).where(outcomes.c.cell_id == cells.c.id).scalar_subquery()
        connection.execute(sa.update(cells).where(cells.c.campaign_id == campaign_id).values({name: when}))
    left = connection.scalar(
        sa.select(sa.func.count()).where(mine, shards.c.state.in_([ShardState.READY, ShardState.LEASED]))
    )
    if not left:
        done = sa.update(campaigns).where(campaigns.c.id == campaign_id, campaigns.c.state != CampaignState.CANCELLED)
        connection.execute(done.values(state=CampaignState.COMPLETE))
