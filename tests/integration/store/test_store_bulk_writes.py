"""Many outcomes at once: the same rows on both databases, and nothing that grows with the number of rows."""

from __future__ import annotations

from dataclasses import replace

import pytest
import sqlalchemy as sa

from orchestrator.domain.states import CampaignState
from orchestrator.store import fleet, plan
from orchestrator.store import outcomes as recording
from orchestrator.store.campaigns import Grip, hold, take_over
from orchestrator.store.dialect import insert_new
from orchestrator.store.leases import Claim, claim
from orchestrator.store.schema import completions, failures, outcomes, shards
from orchestrator.store.session import Store
from tests.support.campaigns import make_campaign
from workers.failures import Failure, FailureKind
from workers.protocol import SampleOutcome


def claim_all(store: Store, num_samples: int) -> tuple[Grip, list[Claim]]:
    make_campaign(store, num_cells=1, num_samples=num_samples, samples_per_shard=num_samples)
    fence = take_over(store, "drill", "desk", ttl_seconds=60.0)
    with store.write() as c:
        plan.begin(c, hold(c, fence))
    with store.write() as c:
        grip = hold(c, fence)
        assert grip.state is CampaignState.RUNNING
        key = c.scalar(sa.select(shards.c.engine_key)) or ""
        worker = fleet.register(c, grip, name="one", pool="p", engine_key=key, model_name="m")
        made = claim(c, grip, worker_id=worker, engine_key=key, num_shards=1, lease_seconds=60.0, num_losses_allowed=3)
    return grip, made


def outcome(made: Claim, index: int) -> SampleOutcome:
    return SampleOutcome(
        attempt_id=made.attempt_id,
        shard_id=made.shard_id,
        cell_key="",
        index=index,
        sample_key=f"key {index}",
        verdict="correct",
        score=1,  # whole numbers among fractions, as scorers give them
        extracted='a "quoted", {braced} \\ text with \N{SNOWMAN}, NULL and a\nline',
        completion=f"text {index}" if index % 3 else "",
        density_prefill=0.5 if index % 2 else None,
        seconds_total=index,
        extras={"list": [1, None, "x"]} if index % 2 else {},
    )


def test_the_text_of_a_statement_does_not_grow_with_its_rows(store: Store) -> None:
    """Drivers parse, prepare and keep texts: one that grows with its rows costs memory and time."""
    if store.writer.dialect.name == "sqlite":
        pytest.skip("SQLite keeps no texts of many rows")
    grip, (made,) = claim_all(store, 3000)
    sizes = (1, 2, 30, 500, 1700)
    texts: list[set[str]] = []
    sa.event.listen(store.writer, "before_cursor_execute", lambda _c, _u, text, *_: texts[-1].add(text))
    first = 0
    for size in sizes:
        texts.append(set())
        with store.write() as c:
            recording.record(c, hold(c, grip.fence), [outcome(made, first + i) for i in range(size)])
        first += size
    assert max(len(text) for found in texts for text in found) < 4096  # beyond this psycopg caches no parsed text
    assert texts[2] == texts[3] == texts[4]


def test_every_value_comes_back_as_it_was_given(store: Store) -> None:
    grip, (made,) = claim_all(store, 40)
    failure = Failure(kind=FailureKind.BAD_SAMPLE, message="no, {it} \\ is 'bad'", where="task", detail='"\n')
    given = [outcome(made, i) for i in range(40)]
    given[7] = replace(given[7], failure=failure, score=None, verdict="unscored")
    given[8] = replace(given[8], score=0.25)
    with store.write() as c:
        done = recording.record(c, hold(c, grip.fence), given)
    assert done.num_new == 40
    with store.read() as c:
        rows = {row["sample_index"]: row for row in c.execute(sa.select(outcomes)).mappings()}
        texts = {i: text for i, text in c.execute(sa.select(completions.c.sample_index, completions.c.text))}
        told = c.execute(sa.select(failures)).mappings().one()
    assert sorted(rows) == list(range(40))
    for o in given:
        row = rows[o.index]
        for name in ("sample_key", "extracted", "score", "density_prefill", "seconds_total", "attempt_id"):
            assert row[name] == getattr(o, name), name
        assert (row["extras"] or {}) == dict(o.extras)
        assert texts.get(o.index, "") == o.completion
    assert rows[7]["failure_kind"] is FailureKind.BAD_SAMPLE
    assert (told["message"], told["detail"], told["charged"]) == (failure.message, failure.detail, True)


def test_only_new_rows_are_told_and_a_text_that_is_too_long_is_refused_not_cut(store: Store) -> None:
    grip, (made,) = claim_all(store, 10)
    with store.write() as c:
        recording.record(c, hold(c, grip.fence), [outcome(made, i) for i in range(4)])
    with store.read() as c:
        old = [dict(row) for row in c.execute(sa.select(outcomes)).mappings()]
    fresh = {**old[0], "sample_index": 9}
    with store.write() as c:
        assert insert_new(c, outcomes, [*old, fresh]) == {(old[0]["cell_id"], 9)}
        assert insert_new(c, outcomes, []) == set()
    if store.writer.dialect.name == "postgresql":
        long = {**old[0], "sample_index": 8, "sample_key": "x" * 200}
        with pytest.raises(sa.exc.DataError), store.write() as c:
            insert_new(c, outcomes, [long])
