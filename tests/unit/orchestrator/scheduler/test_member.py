"""What the loop keeps of a worker's reports."""

from __future__ import annotations

from orchestrator.scheduler.member import MOST_BACKLOG, MOST_BACKLOGS, Member, most_backlog
from workers.engine import EngineProgress, EngineSpec
from workers.exchange import AttemptEnd, Condition, WorkerMessage, WorkerReport
from workers.protocol import ShardOrder, TaskOrder


def member() -> Member:
    return Member(1, "w", "e", EngineSpec(model="m", max_model_len=1), 0.0)


def report(first: int, number: int, attempts: tuple[int, ...] = ()) -> WorkerReport:
    return WorkerReport(
        name="w",
        condition=Condition.READY,
        first_record=first,
        records=tuple(AttemptEnd(attempt_id=first + i) for i in range(number)),
        attempts=attempts,
        num_pending=0,
        progress=EngineProgress(num_in_flight=0, num_tokens_total=0, kv_use=0.0),
    )


def order(attempt_id: int) -> ShardOrder:
    task = TaskOrder(name="t", version=1, parameters={})
    return ShardOrder(
        campaign="c",
        attempt_id=attempt_id,
        shard_id=1,
        cell_key="c",
        engine=member().engine,
        task=task,
        length_tokens=1,
        seed=0,
        indices=(0, 1, 2),
    )


def ask(asked: Member, most: int = MOST_BACKLOG) -> WorkerMessage:
    return asked.message(1, release=False, most_backlog=most)


def test_a_backlog_is_bounded_and_nothing_is_skipped() -> None:
    """While the store is away, what does not fit stays with the worker, which sends it again after what was seen."""
    kept = member()
    assert ask(kept).room == MOST_BACKLOG
    kept.hear(report(1, 1500), 1.0)
    assert (len(kept.backlog), kept.seen) == (1500, 1500)
    assert ask(kept).room == MOST_BACKLOG - 1500
    kept.hear(report(1, 3000), 2.0)  # more than was asked for, and from the beginning
    assert (len(kept.backlog), kept.seen) == (MOST_BACKLOG, MOST_BACKLOG)
    assert ask(kept).room == 0
    kept.hear(report(MOST_BACKLOG + 1, 0), 3.0)
    assert kept.seen == MOST_BACKLOG
    kept.committed(MOST_BACKLOG)
    assert not kept.has_told_all, "it was asked for nothing, and so it may have more"
    ask(kept)
    assert not kept.has_told_all, "it is asked again, and has not answered"
    kept.hear(report(MOST_BACKLOG + 1, 1000), 4.0)
    assert kept.seen == 3000
    assert [r.attempt_id for r in kept.backlog] == list(range(MOST_BACKLOG + 1, 3001))  # type: ignore[union-attr]
    kept.committed(1000)
    assert not kept.has_told_all
    ask(kept)
    kept.hear(report(3001, 0), 5.0)
    assert kept.has_told_all


def test_records_are_kept_once_and_all_workers_share_one_bound() -> None:
    """Memory grew with the workers: each had its own bound, and its whole last report stayed beside the backlog."""
    for number in (1, 16, 64, 1000, 200_000):
        assert number * most_backlog(number) <= max(MOST_BACKLOGS, number)
    crew = [member() for _ in range(64)]
    for kept in crew:
        for _ in range(5):
            room = ask(kept, most_backlog(len(crew))).room
            kept.hear(report(kept.seen + 1, room), 1.0)
        assert kept.report is not None
        assert kept.report.records == ()
    assert sum(len(kept.backlog) for kept in crew) <= MOST_BACKLOGS


def test_an_order_is_not_lost_while_the_answer_to_its_message_is_awaited() -> None:
    """A worker that answers later than a tick had its new orders taken away, and did them for nothing."""
    slow = member()
    slow.hear(report(1, 0), 1.0)
    slow.open, slow.outbox = {7}, [order(7)]
    ask(slow)
    assert slow.num_held == 3, "samples on their way count, or it gets too many"
    assert slow.vanished() == set()
    slow.hear(report(1, 0, attempts=(7,)), 2.0)
    assert slow.vanished() == set()
    slow.hear(report(1, 0, attempts=()), 3.0)
    assert slow.vanished() == {7}


def test_an_attempt_whose_end_was_not_asked_for_is_not_lost() -> None:
    """A report leaves out ended attempts; their ends may be among the records that did not fit."""
    full = member()
    full.open, full.delivered = {3}, {3}
    ask(full, most=2)
    full.hear(report(1, 2), 1.0)
    full.committed(2)
    assert full.vanished() == set()
    ask(full)
    assert full.vanished() == set(), "more is asked for now, and has not come yet"
    full.hear(report(3, 0), 2.0)
    assert full.vanished() == {3}
