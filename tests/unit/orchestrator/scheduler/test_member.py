"""What the loop keeps of a worker's reports."""

from __future__ import annotations

from orchestrator.scheduler.member import MOST_BACKLOG, Member
from workers.engine import EngineProgress, EngineSpec
from workers.exchange import AttemptEnd, Condition, WorkerReport


def report(first: int, number: int) -> WorkerReport:
    return WorkerReport(
        name="w",
        condition=Condition.READY,
        first_record=first,
        records=tuple(AttemptEnd(attempt_id=first + i) for i in range(number)),
        attempts=(),
        num_pending=0,
        progress=EngineProgress(num_in_flight=0, num_tokens_total=0, kv_use=0.0),
    )


def test_a_backlog_is_bounded_and_nothing_is_skipped() -> None:
    """While the store is away, what does not fit stays with the worker, which sends it again after what was seen."""
    member = Member(1, "w", "e", EngineSpec(model="m", max_model_len=1), 0.0)
    member.hear(report(1, 1500), 1.0)
    assert (len(member.backlog), member.seen) == (1500, 1500)
    member.hear(report(1, 3000), 2.0)
    assert (len(member.backlog), member.seen) == (MOST_BACKLOG, MOST_BACKLOG)
    member.hear(report(1, 3000), 3.0)
    assert member.seen == MOST_BACKLOG
    member.committed(MOST_BACKLOG)
    assert not member.has_told_all
    member.hear(report(MOST_BACKLOG + 1, 1000), 4.0)
    assert member.seen == 3000
    assert [r.attempt_id for r in member.backlog] == list(range(MOST_BACKLOG + 1, 3001))  # type: ignore[union-attr]
