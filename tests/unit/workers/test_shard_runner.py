"""The runner keeps the engine fed, isolates suspects, and reports every sample exactly once."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

from workers.core import WorkerCore
from workers.engine import EngineSpec
from workers.exchange import (
    AttemptEnd,
    CanaryResult,
    Condition,
    Record,
    StaleOrchestrator,
    WorkerMessage,
    WorkerReport,
    WorkerStart,
)
from workers.factory import load_engine
from workers.failures import EngineStartError, FailureKind
from workers.fake_engine import FakeEngine
from workers.protocol import SampleOutcome, ShardOrder, TaskOrder
from workers.runner import ShardRunner
from workers.source import Prepared, TaskSource


def spec(**options: Any) -> EngineSpec:
    return EngineSpec(model="none", max_model_len=256, max_in_flight=4, options=options)


def order(attempt: int = 1, indices: tuple[int, ...] = tuple(range(10)), **more: Any) -> ShardOrder:
    return ShardOrder(
        campaign="c",
        cell_key="k",
        shard_id=attempt,
        attempt_id=attempt,
        engine=spec(),
        task=TaskOrder(name="synthetic", version=1, parameters={}),
        length_tokens=48,
        seed=0,
        indices=indices,
        max_output_tokens=16,
        **more,
    )


class WatchedEngine(FakeEngine):
    """Remembers which requests were in flight together."""

    def __init__(self, engine_spec: EngineSpec) -> None:
        super().__init__(engine_spec)
        self.together: list[set[str]] = []

    def submit(self, request: Any) -> None:
        super().submit(request)
        self.together.append(set(self._running))


def runner_on(engine: FakeEngine, **more: Any) -> ShardRunner:
    return ShardRunner(engine, TaskSource(), max_in_flight=4, **more)


def run(runner: ShardRunner, seconds: float = 10.0) -> list[Record]:
    records: list[Record] = []
    deadline = time.monotonic() + seconds
    while not runner.is_idle and runner.broken is None:
        assert time.monotonic() < deadline, "the runner does not come to an end"
        records += runner.step(0.01)
    return records


def outcomes(records: list[Record]) -> list[SampleOutcome]:
    return [r for r in records if isinstance(r, SampleOutcome)]


def test_every_index_is_reported_once_and_then_the_end() -> None:
    runner = runner_on(FakeEngine(spec()))
    runner.add(order(1))
    runner.add(order(2, (5, 7)))
    records = run(runner)
    assert sorted(o.index for o in outcomes(records) if o.attempt_id == 1) == list(range(10))
    assert sorted(o.index for o in outcomes(records) if o.attempt_id == 2) == [5, 7]
    assert [r.attempt_id for r in records if isinstance(r, AttemptEnd)].count(1) == 1
    runner.close()


def test_isolated_samples_run_alone_and_first() -> None:
    engine = WatchedEngine(spec(seconds=0.01))
    runner = runner_on(engine)
    runner.add(order(1))
    runner.add(order(2, (1, 2, 3), isolated=(2, 3)))
    run(runner)
    alone = [group for group in engine.together if any(r.startswith(("2-2-", "2-3-")) for r in group)]
    assert len(alone) == 2
    assert all(len(group) == 1 for group in alone)
    assert max(len(group) for group in engine.together) == 4
    runner.close()


def test_an_order_may_ask_for_fewer_in_flight() -> None:
    engine = WatchedEngine(spec(seconds=0.005))
    runner = runner_on(engine)
    runner.add(order(1, max_in_flight=2))
    run(runner)
    assert max(len(group) for group in engine.together) == 2
    runner.close()


class FaultySource(TaskSource):
    def make(self, wanted: ShardOrder, index: int) -> Prepared:
        if index == 3:
            raise ValueError("no such needle")
        return super().make(wanted, index)

    def score(self, wanted: ShardOrder, prepared: Prepared, completion: str) -> Any:
        if prepared.index == 5:
            raise RuntimeError("cannot score")
        return super().score(wanted, prepared, completion)


def test_a_bad_sample_never_stops_its_order() -> None:
    runner = ShardRunner(FakeEngine(spec(refuse_share=0.2)), FaultySource(), max_in_flight=4)
    runner.add(order(1))
    found = {o.index: o for o in outcomes(run(runner))}
    assert set(found) == set(range(10))
    assert found[3].failure is not None
    assert (found[3].failure.where, found[3].failure.message) == ("generate", "ValueError: no such needle")
    assert found[5].failure is not None
    assert found[5].failure.where == "score"
    assert found[5].sample_key
    assert {o.failure.kind for o in found.values() if o.failure} == {FailureKind.BAD_SAMPLE}
    runner.close()


def test_a_prompt_beyond_the_context_is_over_length() -> None:
    runner = runner_on(FakeEngine(EngineSpec(model="none", max_model_len=50, max_in_flight=4)))
    runner.add(order(1, (0,)))
    (found,) = outcomes(run(runner))
    assert found.failure is not None
    assert found.failure.kind is FailureKind.OVER_LENGTH
    runner.close()


def test_a_dead_engine_ends_every_order_and_names_what_was_in_flight() -> None:
    runner = runner_on(FakeEngine(spec(poison_share=1.0, seconds=0.05)))
    runner.add(order(1, (0, 1)))
    runner.add(order(2, (0, 1)))
    runner.add(order(3))
    records = run(runner)
    assert runner.broken is not None
    assert runner.broken.kind is FailureKind.ENGINE_CRASH
    ends = {r.attempt_id: r for r in records if isinstance(r, AttemptEnd)}
    assert set(ends) == {1, 2, 3}
    flying = [f for end in ends.values() for f in end.in_flight]
    assert len(flying) == 4
    assert all(f.sample_key and f.prompt_hash for f in flying)
    assert all(end.num_in_flight == 4 for end in ends.values() if end.failure)
    assert ends[3].released
    assert ends[3].failure is None
    runner.close()


def test_an_engine_that_hangs_is_found() -> None:
    runner = runner_on(FakeEngine(spec(hang_share=1.0)), stall_seconds=0.2)
    runner.add(order(1, (0,)))
    run(runner)
    assert runner.broken is not None
    assert runner.broken.kind is FailureKind.TIMEOUT
    runner.close()


def test_a_drain_lands_what_flies_and_gives_back_the_rest() -> None:
    runner = runner_on(FakeEngine(spec(seconds=0.2)))
    runner.add(order(1))
    while not runner.num_in_flight:
        runner.step(0.01)
    runner.drain(5.0)
    records = run(runner)
    assert 1 <= len(outcomes(records)) <= 4
    assert [r for r in records if isinstance(r, AttemptEnd)] == [AttemptEnd(attempt_id=1, released=True)]
    runner.close()


def test_a_drain_without_time_aborts() -> None:
    runner = runner_on(FakeEngine(spec(seconds=60.0)))
    runner.add(order(1))
    while not runner.num_in_flight:
        runner.step(0.01)
    runner.drain(0.1)
    records = run(runner, seconds=5.0)
    assert outcomes(records) == []
    assert [r for r in records if isinstance(r, AttemptEnd)] == [AttemptEnd(attempt_id=1, released=True)]
    runner.close()


def test_a_withdrawn_order_is_silent() -> None:
    runner = runner_on(FakeEngine(spec(seconds=0.05)))
    runner.add(order(1))
    runner.step(0.01)
    runner.withdraw([1])
    assert runner.is_idle
    assert runner.step(0.1) == []
    runner.close()


def test_canaries_run_in_an_empty_engine_and_repeat() -> None:
    results = []
    for wrong in ({}, {}, {"wrong_after": 0}):
        runner = runner_on(FakeEngine(spec(**wrong)))
        runner.want_canary()
        runner.add(order(1, (0,)))
        records = run(runner)
        assert isinstance(records[0], CanaryResult)
        results.append(records[0])
        runner.close()
    assert results[0] == results[1] != results[2]


def test_a_busy_engine_is_emptied_for_its_canary() -> None:
    engine = WatchedEngine(spec(seconds=0.01))
    runner = runner_on(engine)
    runner.add(order(1, tuple(range(40))))
    records: list[Record] = []
    while len(outcomes(records)) < 4:
        records += runner.step(0.01)
    runner.want_canary()
    records += run(runner)
    at = next(i for i, r in enumerate(records) if isinstance(r, CanaryResult))
    assert 4 <= len(outcomes(records[:at])) < 40, "its canary comes between the samples"
    assert len(outcomes(records)) == 40
    assert all(len(group) == 1 for group in engine.together if any(r.startswith("canary-") for r in group))
    runner.close()


def test_a_drain_ends_with_a_canary_when_there_is_time() -> None:
    for seconds, ends in ((5.0, [AttemptEnd, CanaryResult]), (0.0, [AttemptEnd])):
        runner = runner_on(FakeEngine(spec(seconds=0.02)), proves_itself=True)
        runner.add(order(1))
        records: list[Record] = []
        while not outcomes(records):
            records += runner.step(0.01)
        runner.drain(seconds)
        records += run(runner)
        while seconds and not isinstance(records[-1], CanaryResult):
            records += runner.step(0.01)
        assert [type(r) for r in records if not isinstance(r, SampleOutcome)] == ends
        runner.close()


def test_a_worker_proves_itself_when_it_is_asked_to_and_before_it_leaves() -> None:
    start = WorkerStart(name="w", campaign="c", engine_name="fake", engine=spec(seconds=0.02), canary_seconds=900)
    core = WorkerCore(start)
    told = talk_until(core, lambda r: len(r.records) == 1)
    assert isinstance(told.records[0], CanaryResult)
    core.exchange(WorkerMessage(epoch=1, orders=(order(1, (0, 1)),)))
    talk_until(core, lambda r: len(r.records) == 4)
    core.exchange(WorkerMessage(epoch=1, prove=True))
    asked = talk_until(core, lambda r: len(r.records) == 5)
    assert isinstance(asked.records[4], CanaryResult)
    core.exchange(WorkerMessage(epoch=1, orders=(order(2, (2,)),)))
    talk_until(core, lambda r: len(r.records) == 7)
    core.exchange(WorkerMessage(epoch=1, drain_seconds=5.0))
    left = talk_until(core, lambda r: r.condition is Condition.DRAINED)
    assert isinstance(left.records[-1], CanaryResult)
    core.close()


def test_a_short_context_has_its_canary_too() -> None:
    runner = runner_on(FakeEngine(EngineSpec(model="none", max_model_len=24, max_in_flight=4)))
    runner.want_canary()
    (record,) = run(runner)
    assert isinstance(record, CanaryResult)
    assert set(record.digests.values()) != {"failed"}
    runner.close()


def test_results_depend_on_prompt_and_method_alone() -> None:
    texts = []
    for in_flight in (1, 4):
        runner = ShardRunner(FakeEngine(spec(seconds=0.001)), TaskSource(), max_in_flight=in_flight)
        runner.add(order(1))
        texts.append({o.index: (o.completion, o.prompt_hash, o.sample_key) for o in outcomes(run(runner))})
        runner.close()
    assert texts[0] == texts[1]


def worker(**options: Any) -> WorkerCore:
    return WorkerCore(
        WorkerStart(
            name="w", campaign="c", engine_name="fake", engine=spec(**options), canary_seconds=0, stall_seconds=0.3
        )
    )


def talk_until(core: WorkerCore, condition: Any, message: WorkerMessage | None = None) -> WorkerReport:
    deadline = time.monotonic() + 10.0
    while True:
        report = core.exchange(message or WorkerMessage(epoch=1))
        if condition(report):
            return report
        assert time.monotonic() < deadline, report
        time.sleep(0.01)


def test_records_are_kept_until_they_are_acknowledged() -> None:
    core = worker()
    talk_until(core, lambda r: r.condition is Condition.READY)
    core.exchange(WorkerMessage(epoch=1, orders=(order(1, (0, 1, 2)),)))
    first = talk_until(core, lambda r: len(r.records) == 4)
    assert first.attempts == ()
    seen = core.exchange(WorkerMessage(epoch=1, seen=2))
    assert (seen.first_record, len(seen.records)) == (3, 2)
    again = core.exchange(WorkerMessage(epoch=2))
    assert again.records == first.records
    acknowledged = core.exchange(WorkerMessage(epoch=2, acknowledged=3, seen=3))
    assert (acknowledged.first_record, acknowledged.records) == (4, first.records[3:])
    with pytest.raises(StaleOrchestrator, match="epoch 1 is over"):
        core.exchange(WorkerMessage(epoch=1))
    core.close()


def test_an_order_that_is_sent_twice_is_run_once() -> None:
    core = worker(seconds=0.05)
    talk_until(core, lambda r: r.condition is Condition.READY)
    for _ in range(2):
        core.exchange(WorkerMessage(epoch=1, orders=(order(1, (0, 1)),)))
    report = talk_until(core, lambda r: not r.attempts)
    assert len(outcomes(list(report.records))) == 2
    core.close()


def test_a_loop_that_is_stuck_in_its_engine_is_reported_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.core._STUCK_GRACE_SECONDS", 0.2)
    monkeypatch.setattr(FakeEngine, "poll", lambda self, timeout: time.sleep(3.0) or [])
    core = worker()
    talk_until(core, lambda r: r.condition is Condition.READY)
    core.exchange(WorkerMessage(epoch=1, orders=(order(1, (0,)),)))
    report = talk_until(core, lambda r: r.condition is Condition.BROKEN)
    assert report.failure is not None
    assert report.failure.kind is FailureKind.TIMEOUT
    ends = [r for r in report.records if isinstance(r, AttemptEnd)]
    assert [f.index for f in ends[0].in_flight] == [0]
    core.close()


def test_an_engine_that_cannot_start_is_told() -> None:
    core = worker(cannot_start="no weights")
    report = talk_until(core, lambda r: r.condition is Condition.BROKEN)
    assert report.failure is not None
    assert (report.failure.kind, report.failure.where) == (FailureKind.BAD_SPEC, "start")
    core.close()


def test_a_dead_child_process_is_a_dead_engine() -> None:
    engine = FakeEngine(spec(process=True))
    assert engine._child is not None
    engine._child.kill()
    engine._child.wait()
    runner = runner_on(engine)
    runner.add(order(1))
    run(runner)
    assert runner.broken is not None
    assert runner.broken.kind is FailureKind.WORKER_LOST, "a kill from outside is no sample's fault"
    runner.close()


def test_unknown_engines_are_named_with_those_that_exist() -> None:
    with pytest.raises(EngineStartError, match="unknown engine 'gpt'; known engines: vllm, fake"):
        load_engine("gpt", spec())


class NarrowEngine(WatchedEngine):
    """Its cache holds two of the samples, not four."""

    def __init__(self, engine_spec: EngineSpec) -> None:
        super().__init__(engine_spec)
        self.facts = replace(self.facts, kv_capacity_tokens=2 * (48 + 16) + 10)


def test_no_more_samples_enter_the_engine_than_its_cache_holds() -> None:
    engine = NarrowEngine(spec())
    runner = runner_on(engine)
    runner.add(order())
    assert len(outcomes(run(runner))) == 10
    assert max(len(together) for together in engine.together) == 2


def test_a_sample_larger_than_the_cache_is_tried_alone() -> None:
    engine = NarrowEngine(spec())
    runner = runner_on(engine)
    runner.add(replace(order(indices=(0, 1)), max_output_tokens=150))
    assert len(outcomes(run(runner))) == 2
    assert max(len(together) for together in engine.together) == 1


def test_a_sample_to_isolate_is_made_although_others_wait_ready() -> None:
    """They fill what is made ahead and may not enter before it: without room of its own, nobody would ever move."""
    runner = runner_on(WatchedEngine(spec(seconds=0.05)))
    runner.add(order(1, tuple(range(40))))
    found: list[Record] = []
    deadline = time.monotonic() + 10
    while runner.num_in_flight < 4 or sum(len(o.ready) for o in runner._orders) < 6:
        assert time.monotonic() < deadline
        found += runner.step(0.0)
    runner.add(order(2, (0, 1, 2), isolated=(1,)))
    assert len(outcomes(found + run(runner))) == 43
