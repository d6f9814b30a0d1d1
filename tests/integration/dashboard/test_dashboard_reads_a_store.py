"""A snapshot read from a real store: counters, workers, failures, events, and what a viewer may not do."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import sqlalchemy as sa

from orchestrator.dashboard.read import SnapshotSource, short_budget
from orchestrator.dashboard.render import frame
from orchestrator.dashboard.state import View, ViewState
from orchestrator.domain.grid import Cell
from orchestrator.domain.states import CampaignState, WorkerState
from orchestrator.errors import StoreError
from orchestrator.store import fleet, leases, outcomes
from orchestrator.store.campaigns import (
    Fence,
    NewCampaign,
    Settings,
    change_state,
    create_campaign,
    hold,
    take_over,
)
from orchestrator.store.engine_record import engine_key
from orchestrator.store.leases import Claim
from orchestrator.store.session import Store
from workers.engine import EngineSpec
from workers.failures import Failure, FailureKind
from workers.protocol import SampleOutcome, TaskOrder

ENGINE = EngineSpec(model="/models/tiny", tensor_parallel=2, max_model_len=4096)
SAMPLES = 6


def cell(task: str, method: str, budget: str) -> Cell:
    return Cell(
        key=f"{task}-{method}-{budget}",
        model_name="tiny",
        engine=ENGINE,
        task=TaskOrder(name=task, version=1, parameters={}),
        task_label=task,
        length_tokens=2048,
        seed=43,
        num_samples=SAMPLES,
        method={"decode": {"name": method}} if budget else {},
        method_label=method,
        budget=budget,
        max_output_tokens=64,
    )


CELLS = [
    cell(task, method, budget)
    for task in ("ruler_niah", "qa_squad")
    for method, budget in (("dense", ""), ("quest", "token_budget=64"))
]


@dataclass(frozen=True)
class Driven:
    """A campaign in the hands of an orchestrator, with one worker."""

    store: Store
    fence: Fence
    worker_id: int

    def claim(self, num_shards: int) -> list[Claim]:
        with self.store.write() as connection:
            return leases.claim(
                connection,
                hold(connection, self.fence),
                worker_id=self.worker_id,
                engine_key=engine_key(ENGINE),
                num_shards=num_shards,
                lease_seconds=60,
                num_losses_allowed=3,
            )

    def record(self, *reported: SampleOutcome) -> None:
        with self.store.write() as connection:
            outcomes.record(connection, hold(connection, self.fence), reported)


def outcome(claim: Claim, index: int, verdict: str, score: float | None) -> SampleOutcome:
    failure = None
    if verdict == "unscored":
        failure = Failure(kind=FailureKind.OVER_LENGTH, message="too long\x1b[2J", where="generate")
    return SampleOutcome(
        attempt_id=claim.attempt_id,
        shard_id=claim.shard_id,
        cell_key="",
        index=index,
        verdict=verdict,
        score=score,
        failure=failure,
        seconds_total=2.0,
    )


@pytest.fixture
def driven(store: Store) -> Driven:
    new = NewCampaign(name="watched", cells=CELLS, spec={}, settings=Settings(samples_per_shard=SAMPLES))
    create_campaign(store, new)
    fence = take_over(store, "watched", "test", ttl_seconds=60)
    with store.write() as connection:
        grip = hold(connection, fence)
        change_state(connection, fence.campaign_id, grip.now, CampaignState.RUNNING, "test")
        worker_id = fleet.register(
            connection, grip, name="w1", pool="test", engine_key=engine_key(ENGINE), model_name="tiny"
        )
        fleet.become(connection, grip, [worker_id], WorkerState.READY, "test")
    return Driven(store, fence, worker_id)


def test_counters_follow_the_outcomes(driven: Driven) -> None:
    source = SnapshotSource(driven.store, "watched")
    before = source()
    assert [c.method for c in before.cells] == ["dense", "quest"] * 2
    assert (before.header.num_recorded, before.header.num_samples) == (0, 4 * SAMPLES)
    claim = driven.claim(1)[0]
    driven.record(
        outcome(claim, 0, "correct", 1.0),
        outcome(claim, 1, "incorrect", 0.5),
        outcome(claim, 2, "unanswered", 0.0),
        outcome(claim, 3, "unscored", None),
    )
    after = source()
    head = after.header
    assert (head.num_recorded, head.num_scored, head.num_unanswered, head.num_failed) == (4, 3, 1, 1)
    touched = next(c for c in after.cells if c.num_recorded)
    assert touched.score_sum == pytest.approx(1.5)
    assert touched.num_leased_shards == 1
    with driven.store.read() as connection:
        counted = connection.execute(sa.text("SELECT count(*), sum(score) FROM outcomes")).one()
    assert tuple(counted) == (head.num_recorded, pytest.approx(sum(c.score_sum for c in after.cells)))


def test_a_worker_shows_its_shard_and_its_gpus(driven: Driven) -> None:
    claim = driven.claim(1)[0]
    driven.record(outcome(claim, 0, "correct", 1.0))
    worker = SnapshotSource(driven.store, None)().workers[0]
    with driven.store.write() as connection:
        connection.execute(sa.text("UPDATE workers SET device = 'NVIDIA H200'"))
    loaded = SnapshotSource(driven.store, None)()
    assert (loaded.workers[0].gpus, loaded.workers[0].engine, loaded.header.num_gpus) == ("2×", "tiny tp2", 2)
    assert (worker.name, worker.state, worker.gpus, worker.engine) == ("w1", "busy", "–", "tiny")
    assert (worker.shard_done, worker.shard_samples) == (1, SAMPLES)
    assert "2k" in worker.shard


def test_failures_and_events_are_told(driven: Driven) -> None:
    claim = driven.claim(1)[0]
    driven.record(outcome(claim, 3, "unscored", None))
    snapshot = SnapshotSource(driven.store, "watched")()
    assert [(c.kind, c.num) for c in snapshot.failure_counts] == [("over_length", 1)]
    assert snapshot.failures[0].place.endswith("· 2k #3")
    assert "claimed" not in {event.kind for event in snapshot.events}
    assert snapshot.events[0].sequence > snapshot.events[-1].sequence


def test_every_view_draws_what_was_read(driven: Driven) -> None:
    driven.claim(2)
    snapshot = SnapshotSource(driven.store, "watched")()
    for view in View:
        lines = frame(snapshot, ViewState(view=view), 80, 24)
        assert [line.cell_len for line in lines] == [80] * 24
    assert "watched" in frame(snapshot, ViewState(), 80, 24)[0].plain


def test_a_campaign_without_an_orchestrator_is_said_to_be_so(driven: Driven) -> None:
    with driven.store.write() as connection:
        connection.execute(sa.text("UPDATE campaigns SET orchestrator_until = 0"))
    snapshot = SnapshotSource(driven.store, "watched")()
    assert not snapshot.header.is_driven
    assert "no orchestrator drives it" in frame(snapshot, ViewState(), 80, 24)[2].plain


def test_a_snapshot_becomes_json(driven: Driven) -> None:
    plain = SnapshotSource(driven.store, "watched")().as_json()
    assert set(plain) == {"header", "cells", "workers", "failures", "failure_counts", "events"}
    assert plain["header"]["campaign"] == "watched"


def test_watching_an_unknown_campaign_names_the_known(driven: Driven) -> None:
    with pytest.raises(StoreError, match="no campaign named 'other'; there are: watched"):
        SnapshotSource(driven.store, "other")()


def test_a_reader_neither_waits_for_a_writer_nor_sees_half_of_it(driven: Driven) -> None:
    claim = driven.claim(1)[0]
    source = SnapshotSource(driven.store, "watched")
    with driven.store.write() as connection:
        outcomes.record(connection, hold(connection, driven.fence), [outcome(claim, 0, "correct", 1.0)])
        assert source().header.num_recorded == 0
    assert source().header.num_recorded == 1


def test_a_reading_touches_no_outcomes_and_writes_nothing(driven: Driven) -> None:
    """The cost of a screen does not grow with the outcomes: no statement so much as names their tables."""
    source = SnapshotSource(driven.store, "watched")
    source()
    statements: list[str] = []
    sa.event.listen(driven.store.reader, "before_cursor_execute", lambda *args: statements.append(args[2]))
    source()
    assert 0 < len(statements) <= 9
    assert not [s for s in statements if "outcomes" in s.split("FROM", 1)[-1] or "completions" in s]
    assert not [s for s in statements if s.lstrip().upper().startswith(("INSERT", "UPDATE", "DELETE"))]


def test_budgets_are_shown_without_the_knobs_name() -> None:
    assert short_budget("vertical_size=512+token_budget=64") == "512+64"
    assert short_budget("") == ""
