"""Whole campaigns on threads of this process: whatever goes wrong, every sample is recorded once and equal."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import sqlalchemy as sa

from orchestrator.domain.states import CampaignState, WorkerState
from orchestrator.scheduler.campaign import run_campaign, take_campaign
from orchestrator.scheduler.inline_pool import InlinePool
from orchestrator.scheduler.loop import CampaignLoop
from orchestrator.scheduler.pool import Gone
from orchestrator.store import control, views
from orchestrator.store.campaigns import Superseded, take_over
from orchestrator.store.plan import load_plan
from orchestrator.store.schema import attempts, outcomes, workers
from orchestrator.store.session import Store, StoreUnavailable
from orchestrator.store.verify import verify_campaign
from tests.support.campaigns import FAST, make_campaign, outcome_table
from workers.engine import EngineSpec
from workers.exchange import WorkerMessage, WorkerReport
from workers.failures import FailureKind
from workers.fake_engine import FakeEngine, is_struck


def loop_on(store: Store, pool: InlinePool, name: str = "drill") -> CampaignLoop:
    fence = take_campaign(store, name, FAST)
    loop = CampaignLoop(store, fence, load_plan(store, fence), pool, FAST)
    loop.start()
    return loop


def tick_until(loop: CampaignLoop, condition, seconds: float = 90.0) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        loop.tick()


def finish(loop: CampaignLoop, seconds: float = 180.0) -> None:
    deadline = time.monotonic() + seconds
    while loop.tick():
        assert time.monotonic() < deadline, "the campaign does not end"


def num_recorded(store: Store) -> int:
    return views.campaign_header(store).num_recorded


def test_a_campaign_of_two_models_completes_and_is_proven(store: Store) -> None:
    make_campaign(store, models=2)
    result = run_campaign(store, "drill", InlinePool(2), settings=FAST)
    assert result.exit_code == 0
    proof = verify_campaign(store)
    assert proof.is_proven, proof.problems
    assert proof.num_recorded == 2 * 4 * 20
    engines = {(w.model_name, w.num_weight_loads) for w in views.campaign_snapshot(store).workers}
    assert engines == {("model-0", 1), ("model-1", 1)}
    assert run_campaign(store, "drill", InlinePool(1), settings=FAST).exit_code == 0


def test_lost_workers_cost_nothing_and_nobody_is_charged(store: Store) -> None:
    make_campaign(store, options={"seconds": 0.02})
    pool = InlinePool(2)
    loop = loop_on(store, pool)
    for goal in (5, 20, 40):
        tick_until(loop, lambda goal=goal: num_recorded(store) >= goal and pool.worker_names())
        pool.kill(pool.worker_names()[0], preempted=goal == 20)
    finish(loop)
    proof = verify_campaign(store)
    assert proof.is_proven, proof.problems
    assert [f for f in views.failure_rows(store) if f.charged] == []
    pool.close()


def test_a_new_orchestrator_adopts_the_workers_and_their_unacknowledged_outcomes(store: Store) -> None:
    make_campaign(store, options={"seconds": 0.02})
    pool = InlinePool(2)
    first = loop_on(store, pool)
    tick_until(first, lambda: num_recorded(store) >= 10)
    time.sleep(0.3)  # the first one is dead; the workers go on
    with store.write() as connection:
        connection.execute(sa.text("UPDATE campaigns SET orchestrator_until = 0"))
    before = pool.worker_names()
    second = loop_on(store, pool)
    finish(second)
    assert pool.worker_names() == before
    assert [w.num_weight_loads for w in views.campaign_snapshot(store).workers] == [1, 1]
    assert verify_campaign(store).is_proven
    assert not [e for e in views.event_rows(store, limit=1000) if e.kind == "refused"]
    with pytest.raises(Superseded):
        tick_until(first, lambda: False)
    pool.close()


def test_two_orchestrators_cannot_harm_each_other(store: Store) -> None:
    make_campaign(store, options={"seconds": 0.02})
    pools = InlinePool(1), InlinePool(1)
    first = loop_on(store, pools[0])
    tick_until(first, lambda: num_recorded(store) >= 5)
    take_over(store, "drill", "usurper", ttl_seconds=0.0, is_dead=lambda _: True)
    second = loop_on(store, pools[1])
    errors = []
    for _ in range(100):
        try:
            first.tick()
        except Superseded as error:
            errors.append(error)
            break
        second.tick()
    assert errors
    finish(second)
    assert verify_campaign(store).is_proven
    for pool in pools:
        pool.close()


class DeafPool(InlinePool):
    """Loses its link to the workers for a while: they work on, nobody hears them."""

    deaf = False

    def exchange(
        self, messages: Mapping[str, WorkerMessage], timeout_seconds: float
    ) -> Mapping[str, WorkerReport | Gone]:
        if self.deaf:
            time.sleep(timeout_seconds)
            return {}
        return super().exchange(messages, timeout_seconds)


class LatePool(InlinePool):
    """Workers whose answers take several ticks, as those of a busy cluster do; each has one call under way."""

    def __init__(self, num_workers: int, late_by: int) -> None:
        super().__init__(num_workers)
        self._late_by = late_by
        self._under_way: dict[str, tuple[int, WorkerReport | Gone]] = {}

    def free(self) -> set[str]:
        return super().free() - set(self._under_way)

    def exchange(
        self, messages: Mapping[str, WorkerMessage], timeout_seconds: float
    ) -> Mapping[str, WorkerReport | Gone]:
        answers = super().exchange(messages, timeout_seconds)
        self._under_way |= {name: (self._late_by, answer) for name, answer in answers.items()}
        due = {name: answer for name, (ticks, answer) in self._under_way.items() if ticks == 0}
        self._under_way = {n: (ticks - 1, a) for n, (ticks, a) in self._under_way.items() if n not in due}
        return due


def test_answers_that_take_several_ticks_cost_no_work(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """No order is taken back because its answer is not there yet, nor because a report had no room for its end."""
    monkeypatch.setattr("orchestrator.scheduler.member.MOST_BACKLOG", 7)
    monkeypatch.setattr("orchestrator.scheduler.ledger.RECORDS_A_COMMIT", 9)  # backlogs stay, and the room varies
    make_campaign(store, options={"seconds": 0.01}, num_samples=60)
    settings = replace(FAST, look_seconds=0.0)
    pool, fence = LatePool(2, late_by=5), take_campaign(store, "drill", settings)
    loop = CampaignLoop(store, fence, load_plan(store, fence), pool, settings)
    loop.start()
    finish(loop, seconds=60.0)
    pool.close()
    proof = verify_campaign(store)
    assert proof.is_proven, proof.problems
    assert not [e for e in views.event_rows(store, limit=10_000) if e.kind in ("released", "refused", "expired")]
    with store.read() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(attempts)) == 4 * 60 // 5


def test_a_worker_that_wakes_after_its_lease_is_refused(store: Store) -> None:
    make_campaign(store, options={"seconds": 0.05})
    pool = DeafPool(1)
    settings = replace(FAST, lease_seconds=0.6)
    fence = take_campaign(store, "drill", settings)
    loop = CampaignLoop(store, fence, load_plan(store, fence), pool, settings)
    loop.start()
    tick_until(loop, lambda: num_recorded(store) >= 5)
    zombies = [pool._cores[name] for name in pool.worker_names()]
    pool.deaf = True
    tick_until(loop, lambda: any(w.state is WorkerState.LOST for w in views.campaign_snapshot(store).workers))
    pool.deaf = False
    finish(loop)
    assert verify_campaign(store).is_proven
    for core in zombies:
        core.close()
    pool.close()


def test_the_store_may_go_away_and_come_back(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_campaign(store, options={"seconds": 0.05}, num_samples=80)
    pool = InlinePool(1)
    settings = replace(FAST, spool_folder=tmp_path / "spool", lease_seconds=3.0)
    fence = take_campaign(store, "drill", settings)
    loop = CampaignLoop(store, fence, load_plan(store, fence), pool, settings)
    loop.start()
    tick_until(loop, lambda: num_recorded(store) >= 10)
    write = Store.write

    def away(self: Store) -> object:
        raise StoreUnavailable("store: connection refused")

    monkeypatch.setattr(Store, "write", away)
    until = time.monotonic() + 4.0  # longer than a lease
    while time.monotonic() < until:
        assert loop.tick()
    waiting = sum(len(m.backlog) for m in loop.members)
    assert waiting > 10, "the engines stopped working"
    assert list((tmp_path / "spool").iterdir())
    monkeypatch.setattr(Store, "write", write)
    finish(loop)
    assert verify_campaign(store).is_proven
    assert [e for e in views.event_rows(store, limit=1000) if e.kind == "store_back"]
    assert not [e for e in views.event_rows(store, limit=1000) if e.kind in ("refused", "expired")]
    pool.close()


def test_a_spool_left_behind_is_replayed_by_the_next_orchestrator(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_campaign(store, options={"seconds": 0.05}, num_samples=60)
    pool = InlinePool(1)
    settings = replace(FAST, spool_folder=tmp_path)
    fence = take_campaign(store, "drill", settings)
    loop = CampaignLoop(store, fence, load_plan(store, fence), pool, settings)
    loop.start()
    tick_until(loop, lambda: num_recorded(store) >= 5)
    with monkeypatch.context() as patch:

        def away(self: Store) -> object:
            raise StoreUnavailable("store: connection refused")

        patch.setattr(Store, "write", away)
        tick_until(loop, lambda: any(tmp_path.glob("*.spool")))
    with next(tmp_path.glob("*.spool")).open("ab") as file:
        file.write(b"12345678 {torn")
    pool.close()  # the worker dies with what it held
    before = num_recorded(store)
    with store.write() as connection:
        connection.execute(sa.text("UPDATE campaigns SET orchestrator_until = 0"))
    second = InlinePool(1)
    fence = take_campaign(store, "drill", settings)
    following = CampaignLoop(store, fence, load_plan(store, fence), second, settings)
    following.start()
    assert num_recorded(store) > before
    finish(following)
    assert verify_campaign(store).is_proven
    second.close()


def test_poison_is_quarantined_after_three_deaths_and_no_neighbour_is_charged(store: Store) -> None:
    make_campaign(store, options={"poison_share": 0.05, "seconds": 0.01}, num_cells=4, num_samples=50)
    result = run_campaign(store, "drill", InlinePool(2), settings=FAST)
    assert result.exit_code == 3
    failed = [o for o in views.iter_outcomes(store) if o.failure_kind]
    assert failed
    assert {o.failure_kind for o in failed} == {FailureKind.ENGINE_CRASH}
    poisoned = {o.prompt_hash for o in failed}
    for row in views.iter_outcomes(store):
        assert (row.prompt_hash in poisoned) == (row.failure_kind is not None)
    charged = [f for f in views.failure_rows(store) if f.charged]
    assert len(charged) == len(failed)
    assert all("after 3 engine deaths" in f.message for f in charged)
    assert verify_campaign(store).is_proven


def test_hangs_are_found_by_the_watchdog(store: Store) -> None:
    make_campaign(store, options={"hang_share": 0.02}, num_cells=2, num_samples=50)
    settings = replace(FAST, stall_seconds=0.3)
    assert run_campaign(store, "drill", InlinePool(1), settings=settings).exit_code == 3
    failed = [o for o in views.iter_outcomes(store) if o.failure_kind]
    assert failed
    assert {o.failure_kind for o in failed} == {FailureKind.TIMEOUT}
    assert verify_campaign(store).is_proven


def test_bad_samples_are_recorded_and_can_be_requeued(store: Store) -> None:
    make_campaign(store, options={"refuse_share": 0.1})
    assert run_campaign(store, "drill", InlinePool(1), settings=FAST).exit_code == 3
    before = outcome_table(store)
    failed = views.campaign_header(store).num_failed
    done = control.requeue(store, "drill", [FailureKind.BAD_SAMPLE])
    assert done.num_outcomes == failed > 0
    assert views.campaign_header(store).num_recorded == 80 - failed
    assert views.campaign_header(store).state is CampaignState.RUNNING
    assert run_campaign(store, "drill", InlinePool(1), settings=FAST).exit_code == 3
    assert outcome_table(store) == before
    assert verify_campaign(store).is_proven


def test_an_engine_that_cannot_start_fails_its_shards_once(store: Store) -> None:
    make_campaign(store, options={"cannot_start": "no weights in /nowhere"})
    assert run_campaign(store, "drill", InlinePool(2), settings=FAST).exit_code == 3
    header = views.campaign_header(store)
    assert (header.num_recorded, header.shards["failed"]) == (0, 16)
    assert any("no weights in /nowhere" in f.message and f.answer == "fail" for f in views.failure_rows(store))


def test_out_of_memory_ends_with_fewer_in_flight(store: Store) -> None:
    make_campaign(store, options={"out_of_memory_above": 3, "seconds": 0.01})
    assert run_campaign(store, "drill", InlinePool(1), settings=FAST).exit_code == 0
    kinds = {f.kind for f in views.failure_rows(store)}
    assert kinds == {FailureKind.OUT_OF_MEMORY}
    assert verify_campaign(store).is_proven


class FailingDevice(FakeEngine):
    """The first one loaded computes nonsense after a while; those after it are sound."""

    loaded: ClassVar[list[FakeEngine]] = []

    def __init__(self, spec: EngineSpec) -> None:
        first = not self.loaded
        super().__init__(replace(spec, options={**spec.options, "wrong_after": 20}) if first else spec)
        self.loaded.append(self)


@pytest.mark.parametrize("canary_seconds", [0.3, 900.0], ids=["on schedule", "before the end"])
def test_a_broken_device_is_caught_by_its_canary_and_its_work_done_again(
    store: Store, monkeypatch: pytest.MonkeyPatch, canary_seconds: float
) -> None:
    make_campaign(store, "sound", num_samples=30)
    assert run_campaign(store, "sound", InlinePool(1), settings=FAST).exit_code == 0
    make_campaign(store, num_samples=30, options={"seconds": 0.05})
    monkeypatch.setattr("workers.fake_engine.FakeEngine", FailingDevice)
    FailingDevice.loaded.clear()
    settings = replace(FAST, canary_seconds=canary_seconds)
    assert run_campaign(store, "drill", InlinePool(1), settings=settings).exit_code == 0
    kinds = [e.kind for e in views.event_rows(store, "drill", limit=5000)]
    assert "canary_failed" in kinds
    assert len(FailingDevice.loaded) > 1
    assert outcome_table(store, "drill") == outcome_table(store, "sound")
    assert verify_campaign(store, "drill").is_proven


class BrokenDevice(FakeEngine):
    """Computes nonsense from the beginning."""

    def __init__(self, spec: EngineSpec) -> None:
        super().__init__(replace(spec, options={**spec.options, "wrong_after": 0}))


def test_devices_that_are_broken_from_the_start_are_given_up(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    make_campaign(store, "sound")
    assert run_campaign(store, "sound", InlinePool(1), settings=FAST).exit_code == 0
    make_campaign(store)
    monkeypatch.setattr("workers.fake_engine.FakeEngine", BrokenDevice)
    assert run_campaign(store, "drill", InlinePool(1), settings=FAST).exit_code == 3
    assert num_recorded(store) == 0
    assert views.campaign_header(store).shards["failed"] == 16
    starts = [f for f in views.failure_rows(store) if "wrong canary" in f.message]
    assert [f.answer for f in starts].count("fail") == 1
    assert len([f for f in starts if f.answer == "again"]) == FAST.policy.max_start_failures


def test_no_campaign_is_complete_before_the_last_canary_of_its_workers(store: Store) -> None:
    make_campaign(store, models=2)
    assert run_campaign(store, "drill", InlinePool(2), settings=FAST).exit_code == 0
    last = sa.func.max(outcomes.c.recorded_at)
    of_worker = sa.select(workers.c.good_canary_at, last).join(attempts, attempts.c.worker_id == workers.c.id)
    with store.read() as connection:
        rows = connection.execute(
            of_worker.join(outcomes, outcomes.c.attempt_id == attempts.c.id).group_by(workers.c.id)
        ).all()
    (complete,) = [e for e in views.event_rows(store, limit=5000) if e.kind == "complete"]
    assert len(rows) >= 2
    assert all(last_outcome <= good_canary_at <= complete.at for good_canary_at, last_outcome in rows)


def test_a_worker_that_dies_before_its_last_canary_keeps_no_campaign_waiting(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_campaign(store, num_cells=2)
    pool = InlinePool(1)
    loop = loop_on(store, pool)
    monkeypatch.setattr("workers.runner.ShardRunner.want_canary", lambda self: None)
    tick_until(loop, lambda: loop.num_unfinished == 0)
    assert loop.tick()
    assert views.campaign_header(store).state is CampaignState.RUNNING
    pool.kill(pool.worker_names()[0])
    finish(loop)
    assert views.campaign_header(store).state is CampaignState.COMPLETE
    assert verify_campaign(store).is_proven
    pool.close()


def test_stopping_drains_and_the_same_call_goes_on(store: Store) -> None:
    make_campaign(store, options={"seconds": 0.1}, num_samples=80)
    stop = threading.Event()
    result = run_campaign(
        store,
        "drill",
        InlinePool(1),
        settings=FAST,
        stop_event=stop,
        on_snapshot=lambda seen: stop.set() if seen.header.num_recorded >= 5 else None,
        snapshot_seconds=0.1,
    )
    assert result.exit_code == 130
    header = views.campaign_header(store)
    assert 0 < header.num_recorded < 320
    assert header.shards["leased"] == 0
    assert header.orchestrator is None
    assert run_campaign(store, "drill", InlinePool(2), settings=FAST).exit_code == 0
    assert verify_campaign(store).is_proven
    assert [f for f in views.failure_rows(store) if f.charged] == []


def test_pause_resume_and_cancel_are_followed(store: Store) -> None:
    make_campaign(store, options={"seconds": 0.05}, num_samples=400)
    pool = InlinePool(1)
    loop = loop_on(store, pool)
    tick_until(loop, lambda: num_recorded(store) >= 5)
    control.pause(store, "drill")
    tick_until(loop, lambda: views.campaign_header(store).shards["leased"] == 0)
    still = num_recorded(store)
    for _ in range(20):
        loop.tick()
    assert num_recorded(store) == still
    control.resume(store, "drill")
    tick_until(loop, lambda: num_recorded(store) > still)
    control.cancel(store, "drill")
    finish(loop)
    header = views.campaign_header(store)
    assert header.state is CampaignState.CANCELLED
    assert header.shards["ready"] == header.shards["leased"] == 0
    with store.read() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(workers)) == 1
    pool.close()


def test_snapshots_are_called_back(store: Store) -> None:
    make_campaign(store, num_cells=2)
    seen = []
    run_campaign(store, "drill", InlinePool(1), settings=FAST, on_snapshot=seen.append, snapshot_seconds=0.1)
    assert seen[-1].header.state is CampaignState.COMPLETE
    assert seen[-1].header.num_recorded == 40


def test_threads_end_with_their_workers() -> None:
    names = [thread.name for thread in threading.enumerate() if thread.name.startswith("worker-")]
    assert names == []


def test_the_fake_engine_strikes_the_asked_share() -> None:
    hits = sum(is_struck([i, i + 1, 7], "poison", 0.1) for i in range(2000))
    assert 140 < hits < 260
