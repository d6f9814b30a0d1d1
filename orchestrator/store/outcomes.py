"""Recording outcomes: fenced by their attempts, unique by their keys, counted in the same transaction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from orchestrator.domain.states import Ending, ShardState
from orchestrator.store import events, leases
from orchestrator.store.campaigns import Grip
from orchestrator.store.counting import add_to_attempts, add_to_cells, add_to_shards
from orchestrator.store.dialect import insert_all, insert_new
from orchestrator.store.events import Event
from orchestrator.store.leases import OpenAttempt
from orchestrator.store.schema import attempts, completions, failures, outcomes, shards, suspects
from workers.protocol import SampleOutcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What became of a batch."""

    num_new: int = 0
    num_repeated: int = 0
    """Recorded earlier by the same attempt: an acknowledgement had been lost."""
    num_refused: int = 0
    """Of an attempt that is not current: not written."""
    stale_attempts: tuple[int, ...] = ()
    finished_shards: tuple[int, ...] = ()
    num_tokens: int = 0
    refused: tuple[SampleOutcome, ...] = field(default=(), repr=False)


def record(connection: sa.Connection, grip: Grip, reported: Sequence[SampleOutcome]) -> Recorded:
    """Write what is new of `reported`; everything of a stale attempt is refused and logged."""
    if not reported:
        return Recorded()
    current = leases.open_attempts(connection, {o.attempt_id for o in reported})
    fits = [o for o in reported if _belongs(o, current.get(o.attempt_id))]
    others = [o for o in reported if not _belongs(o, current.get(o.attempt_id))]
    rows = {(current[o.attempt_id].cell_id, o.index): (o, current[o.attempt_id]) for o in fits}
    written = insert_new(connection, outcomes, [_row(grip, o, a) for o, a in rows.values()])
    new = [rows[key] for key in rows if key in written]
    _write_texts(connection, new)
    _write_failures(connection, grip, new)
    _clear_suspects(connection, new)
    add_to_cells(connection, grip, new)
    add_to_shards(connection, new)
    add_to_attempts(connection, new)
    finished = _finish(connection, grip, {attempt.shard_id for _, attempt in rows.values()})
    repeated = _already_there(connection, others)
    stale = [o for o in others if (o.attempt_id, o.index) not in repeated]
    _log_refusals(connection, grip, stale)
    return Recorded(
        num_new=len(new),
        num_repeated=len(reported) - len(new) - len(stale),
        num_refused=len(stale),
        stale_attempts=tuple(sorted({o.attempt_id for o in stale})),
        finished_shards=tuple(finished),
        num_tokens=sum(o.num_prompt_tokens + o.num_output_tokens for o, _ in new),
        refused=tuple(stale),
    )


def _belongs(outcome: SampleOutcome, attempt: OpenAttempt | None) -> bool:
    if attempt is None or attempt.shard_id != outcome.shard_id:
        return False
    return attempt.first_index <= outcome.index < attempt.first_index + attempt.num_samples


_SAME = (
    "sample_key",
    "prompt_hash",
    "attempt_id",
    "extracted",
    "reason",
    "finish_reason",
    "num_prompt_tokens",
    "num_cached_tokens",
    "num_output_tokens",
    "density_prefill",
    "density_decode",
    "kv_kept",
    "num_decode_steps",
    "seconds_to_first_token",
    "seconds_decode",
    "seconds_total",
)


def _row(grip: Grip, outcome: SampleOutcome, attempt: OpenAttempt) -> dict[str, Any]:
    failed = outcome.failure is not None
    return {
        **{name: _clean(getattr(outcome, name)) for name in _SAME},
        "cell_id": attempt.cell_id,
        "sample_index": outcome.index,
        "recorded_at": grip.now,
        "verdict": "unscored" if failed else outcome.verdict,
        "score": None if failed else outcome.score,
        "failure_kind": outcome.failure.kind if outcome.failure else None,
        "extras": dict(outcome.extras) or None,
    }


def _clean(value: Any) -> Any:
    """PostgreSQL stores no NUL character, and no database half of a surrogate pair."""
    if not isinstance(value, str):
        return value
    return value.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()


_Pairs = Sequence[tuple[SampleOutcome, OpenAttempt]]


def _write_texts(connection: sa.Connection, new: _Pairs) -> None:
    rows = [
        {"cell_id": attempt.cell_id, "sample_index": outcome.index, "text": _clean(outcome.completion)}
        for outcome, attempt in new
        if outcome.completion
    ]
    insert_all(connection, completions, rows)


def _write_failures(connection: sa.Connection, grip: Grip, new: _Pairs) -> None:
    rows = [
        {
            "campaign_id": grip.campaign_id,
            "at": grip.now,
            "kind": outcome.failure.kind,
            "cell_id": attempt.cell_id,
            "shard_id": attempt.shard_id,
            "attempt_id": attempt.id,
            "worker_id": attempt.worker_id,
            "sample_index": outcome.index,
            "charged": True,
            "answer": str(outcome.extras.get("answer", "record")),
            "place": outcome.failure.where,
            "message": _clean(outcome.failure.message),
            "detail": _clean(outcome.failure.detail),
            "reproduction": str(outcome.extras.get("reproduction", "")),
        }
        for outcome, attempt in new
        if outcome.failure is not None
    ]
    insert_all(connection, failures, rows)


def _clear_suspects(connection: sa.Connection, new: _Pairs) -> None:
    cleared = [
        {"cell": attempt.cell_id, "index": outcome.index}
        for outcome, attempt in new
        if outcome.index in attempt.isolated or outcome.failure is not None
    ]
    if cleared:
        connection.execute(
            sa.delete(suspects).where(
                suspects.c.cell_id == sa.bindparam("cell"), suspects.c.sample_index == sa.bindparam("index")
            ),
            cleared,
        )


def _finish(connection: sa.Connection, grip: Grip, shard_ids: Collection[int]) -> list[int]:
    """Shards whose last outcome has come are done, and so are their attempts."""
    if not shard_ids:
        return []
    done = connection.scalars(
        sa.update(shards)
        .where(
            shards.c.id.in_(shard_ids),
            shards.c.state == ShardState.LEASED,
            shards.c.num_recorded == shards.c.num_samples,
        )
        .values(state=ShardState.DONE)
        .returning(shards.c.id)
    ).all()
    if done:
        connection.execute(
            sa.update(attempts)
            .where(attempts.c.shard_id.in_(done), attempts.c.closed_at.is_(None))
            .values(closed_at=grip.now, ending=Ending.DONE)
        )
        events.append(connection, grip.campaign_id, grip.now, [Event(kind="done", shard_id=s) for s in done])
    return list(done)


def _already_there(connection: sa.Connection, others: Iterable[SampleOutcome]) -> set[tuple[int, int]]:
    ids = {o.attempt_id for o in others}
    if not ids:
        return set()
    query = sa.select(outcomes.c.attempt_id, outcomes.c.sample_index).where(outcomes.c.attempt_id.in_(ids))
    return {(a, i) for a, i in connection.execute(query)}


def _log_refusals(connection: sa.Connection, grip: Grip, stale: Sequence[SampleOutcome]) -> None:
    counts: dict[int, int] = defaultdict(int)
    for outcome in stale:
        counts[outcome.attempt_id] += 1
    happened = [
        Event(kind="refused", attempt_id=attempt, message=f"{n} outcomes of an attempt that is not current")
        for attempt, n in counts.items()
    ]
    events.append(connection, grip.campaign_id, grip.now, happened)
