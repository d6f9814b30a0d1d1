"""The table of transitions, the drawing made from it, and the decisions about failures."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.domain.retry import (
    Answer,
    RetryPolicy,
    backoff_seconds,
    decide,
    decide_unexplained,
    fewer_in_flight,
    is_culprit,
    may_start_again,
    silence_counts,
)
from orchestrator.domain.states import (
    TRANSITIONS,
    CampaignState,
    IllegalTransition,
    ShardState,
    check_transition,
    diagram,
    sources,
)
from workers.failures import FailureKind

POLICY = RetryPolicy()


def test_every_state_has_a_row_and_every_target_is_of_its_kind() -> None:
    for kind, rows in TRANSITIONS.items():
        assert set(rows) == set(kind)
        assert all(isinstance(target, kind) for targets in rows.values() for target in targets)


def test_transitions_of_one_kind_do_not_leak_into_the_other() -> None:
    assert sources(ShardState.READY) == (
        ShardState.LEASED,
        ShardState.DONE,
        ShardState.FAILED,
        ShardState.CANCELLED,
    )
    assert sources(CampaignState.RUNNING) == (
        CampaignState.READY,
        CampaignState.PAUSED,
        CampaignState.COMPLETE,
        CampaignState.CANCELLED,
    )


def test_illegal_changes_name_both_states() -> None:
    assert check_transition(ShardState.READY, ShardState.LEASED) == "claim"
    with pytest.raises(IllegalTransition, match="ShardState ready cannot become done"):
        check_transition(ShardState.READY, ShardState.DONE)
    with pytest.raises(IllegalTransition):
        check_transition(CampaignState.READY, ShardState.LEASED)


def test_the_document_shows_the_table() -> None:
    assert (Path(__file__).parents[4] / "docs" / "states.md").read_text().endswith(diagram())


@pytest.mark.parametrize(
    ("kind", "in_flight", "answer", "charged"),
    [
        (FailureKind.WORKER_LOST, 0, Answer.AGAIN, False),
        (FailureKind.PREEMPTED, 3, Answer.AGAIN, False),
        (FailureKind.STORE_LOST, 0, Answer.AGAIN, False),
        (FailureKind.BAD_SAMPLE, 0, Answer.RECORD, False),
        (FailureKind.OVER_LENGTH, 0, Answer.RECORD, False),
        (FailureKind.OUT_OF_MEMORY, 4, Answer.FEWER, False),
        (FailureKind.ENGINE_CRASH, 4, Answer.ISOLATE, False),
        (FailureKind.ENGINE_CRASH, 0, Answer.AGAIN, False),
        (FailureKind.TIMEOUT, 1, Answer.ISOLATE, False),
        (FailureKind.CANCELLED, 0, Answer.CANCEL, False),
        (FailureKind.BAD_SPEC, 0, Answer.FAIL, True),
    ],
)
def test_each_kind_has_its_answer(kind: FailureKind, in_flight: int, answer: Answer, charged: bool) -> None:
    decision = decide(kind, num_in_flight=in_flight)
    assert (decision.answer, decision.charged) == (answer, charged)


def test_memory_that_one_sample_exhausts_is_recorded() -> None:
    assert decide(FailureKind.OUT_OF_MEMORY, num_in_flight=1, at_limit=True).answer is Answer.RECORD
    assert [fewer_in_flight(n) for n in (16, 3, 2, 1)] == [8, 1, 1, 1]


def test_only_a_sample_that_ran_alone_can_be_the_culprit() -> None:
    assert not is_culprit(9, alone=False, policy=POLICY)
    assert not is_culprit(2, alone=True, policy=POLICY)
    assert is_culprit(3, alone=True, policy=POLICY)


def test_unexplained_ends_are_tried_again_a_few_times_and_later_each_time() -> None:
    answers = [decide_unexplained(n, POLICY) for n in range(3)]
    assert [a.answer for a in answers] == [Answer.AGAIN, Answer.AGAIN, Answer.FAIL]
    assert answers[0].delay_seconds < answers[1].delay_seconds
    assert backoff_seconds(50, POLICY) == 60.0


def test_a_bad_spec_is_never_started_again() -> None:
    assert not may_start_again(FailureKind.BAD_SPEC, 1, POLICY)
    assert may_start_again(FailureKind.ENGINE_CRASH, 2, POLICY)
    assert not may_start_again(FailureKind.ENGINE_CRASH, 3, POLICY)


def test_a_silent_death_counts_where_nobody_has_told_or_when_it_goes_on() -> None:
    policy = RetryPolicy(max_losses_without_progress=3)
    assert silence_counts(False, 0, policy)
    assert not silence_counts(True, 11, policy)
    assert silence_counts(True, 12, policy)
