"""Proving a campaign: every index exactly once, no outcome of a stale attempt, identities that match.

The manifest hash covers what was asked and what came out (identity, prompt, verdict, score, text), and
no times, attempts or workers: two campaigns with one hash are the same result.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from orchestrator.store.counting import CELL_COUNTERS, contribution
from orchestrator.store.schema import attempts, cells, completions, outcomes, shards
from orchestrator.store.session import Store
from orchestrator.store.views import find_campaign
from workers.failures import FailureKind

_SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What `verify_campaign` found."""

    name: str
    num_cells: int
    num_samples: int
    num_recorded: int
    num_failed: int
    manifest: str
    """SHA-256 over all identities and results."""
    problems: tuple[str, ...]
    """Empty when the campaign is proven; at most the first of each kind are listed."""

    @property
    def is_proven(self) -> bool:
        return not self.problems


class _Findings:
    """Problems by kind, with a bounded number of each written out."""

    def __init__(self) -> None:
        self._found: dict[str, list[str]] = {}

    def add(self, kind: str, where: str) -> None:
        self._found.setdefault(kind, []).append(where)

    def lines(self) -> tuple[str, ...]:
        return tuple(f"{kind}: {len(where)} ({_listed(where)})" for kind, where in self._found.items())


def _listed(where: Sequence[str]) -> str:
    return ", ".join(where[:_SHOWN]) + (", …" if len(where) > _SHOWN else "")


def verify_campaign(store: Store, name: str | None = None) -> Proof:
    """Read everything that was recorded and check it against the plan."""
    found = _Findings()
    manifest = hashlib.sha256()
    totals = [0, 0, 0]
    prompts: dict[tuple[Any, ...], str] = {}
    with store.read() as connection:
        campaign_id = find_campaign(connection, name)
        plans = connection.execute(
            sa.select(cells).where(cells.c.campaign_id == campaign_id).order_by(cells.c.key)
        ).all()
        for cell in plans:
            manifest.update(f"cell {cell.key} {cell.num_samples}\n".encode())
            _check_cell(connection, cell, found, manifest, totals, prompts)
        _check_shards(connection, campaign_id, found)
        known = connection.scalar(sa.text("SELECT name FROM campaigns WHERE id = :i"), {"i": campaign_id})
    return Proof(
        name=str(known),
        num_cells=len(plans),
        num_samples=totals[0],
        num_recorded=totals[1],
        num_failed=totals[2],
        manifest=manifest.hexdigest(),
        problems=found.lines(),
    )


def _check_cell(
    connection: sa.Connection,
    cell: Any,
    found: _Findings,
    manifest: Any,
    totals: list[int],
    prompts: dict[tuple[Any, ...], str],
) -> None:
    counters = dict.fromkeys(CELL_COUNTERS, 0.0)
    expected = 0
    for row in _outcomes(connection, cell.id):
        place = f"{cell.key}[{row.sample_index}]"
        while expected < row.sample_index:
            found.add("missing", f"{cell.key}[{expected}]")
            expected += 1
        expected += 1
        totals[1] += 1
        totals[2] += row.failure_kind is not None
        _check_outcome(row, cell, place, found, prompts)
        for counter, value in contribution(row).items():
            counters[counter] += value
        manifest.update(_line(row))
    for index in range(expected, cell.num_samples):
        found.add("missing", f"{cell.key}[{index}]")
    totals[0] += cell.num_samples
    _check_counters(cell, counters, found)


def _outcomes(connection: sa.Connection, cell_id: int) -> Iterator[Any]:
    query = (
        sa.select(
            *outcomes.c,
            completions.c.text,
            shards.c.cell_id.label("shard_cell"),
            shards.c.first_index,
            shards.c.num_samples.label("shard_samples"),
        )
        .select_from(outcomes)
        .outerjoin(attempts, attempts.c.id == outcomes.c.attempt_id)
        .outerjoin(shards, shards.c.id == attempts.c.shard_id)
        .outerjoin(
            completions,
            (completions.c.cell_id == outcomes.c.cell_id) & (completions.c.sample_index == outcomes.c.sample_index),
        )
        .where(outcomes.c.cell_id == cell_id)
        .order_by(outcomes.c.sample_index)
    )
    yield from connection.execute(query)


def _check_outcome(row: Any, cell: Any, place: str, found: _Findings, prompts: dict[tuple[Any, ...], str]) -> None:
    inside = row.shard_cell == cell.id and row.first_index <= row.sample_index < row.first_index + row.shard_samples
    if not inside:
        found.add("of an attempt at another shard", place)
    if row.sample_index >= cell.num_samples:
        found.add("beyond the cell", place)
    if row.failure_kind is None and not (row.sample_key and row.prompt_hash):
        found.add("without identity", place)
    if row.sample_key and row.prompt_hash:
        identity = (json.dumps(cell.task_order, sort_keys=True), cell.length_tokens, cell.seed, cell.model_name)
        key = (*identity, row.sample_index)
        if prompts.setdefault(key, f"{row.sample_key} {row.prompt_hash}") != f"{row.sample_key} {row.prompt_hash}":
            found.add("another prompt than the same sample of another method", place)


def _check_counters(cell: Any, counters: dict[str, float], found: _Findings) -> None:
    for name in CELL_COUNTERS:
        stored, counted = float(getattr(cell, name)), counters[name]
        if abs(stored - counted) > 1e-6 * max(1.0, abs(counted)):
            found.add("counter differs from the outcomes", f"{cell.key} {name}: {stored:g} for {counted:g}")


def _line(row: Any) -> bytes:
    kind = str(row.failure_kind) if isinstance(row.failure_kind, FailureKind) else ""
    text = hashlib.sha256((row.text or "").encode()).hexdigest()
    fields = (row.sample_index, row.sample_key, row.prompt_hash, row.verdict, row.score, row.extracted, kind, text)
    return json.dumps(fields).encode() + b"\n"


def _check_shards(connection: sa.Connection, campaign_id: int, found: _Findings) -> None:
    counted = (
        sa.select(sa.func.count())
        .where(
            outcomes.c.cell_id == shards.c.cell_id,
            outcomes.c.sample_index >= shards.c.first_index,
            outcomes.c.sample_index < shards.c.first_index + shards.c.num_samples,
        )
        .scalar_subquery()
    )
    wrong = sa.select(shards.c.id).where(shards.c.campaign_id == campaign_id, shards.c.num_recorded != counted)
    for shard_id in connection.scalars(wrong):
        found.add("shard miscounts its outcomes", str(shard_id))
    late = (
        sa.select(outcomes.c.cell_id, outcomes.c.sample_index)
        .join(attempts, attempts.c.id == outcomes.c.attempt_id)
        .where(
            attempts.c.campaign_id == campaign_id,
            attempts.c.closed_at.is_not(None),
            outcomes.c.recorded_at > attempts.c.closed_at,
        )
    )
    for cell_id, index in connection.execute(late):
        found.add("recorded after its attempt was closed", f"cell {cell_id}[{index}]")
    open_of_done = (
        sa.select(attempts.c.id)
        .join(shards, shards.c.id == attempts.c.shard_id)
        .where(shards.c.campaign_id == campaign_id, attempts.c.closed_at.is_(None), shards.c.state != "leased")
    )
    for attempt_id in connection.scalars(open_of_done):
        found.add("open attempt at a shard that is not leased", str(attempt_id))
