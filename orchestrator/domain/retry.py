"""What follows from a failure: a pure decision, without clock or database.

Two things can be charged. A *sample* is charged with an engine's death (crash or hang) only when it
ran alone; until then it is a suspect and is next run in isolation, so that its neighbours are
cleared. A *shard* is charged with what concerns no single sample. Preemption, node loss and our own
store are charged to nobody.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from workers.failures import FailureKind


class Answer(StrEnum):
    """What to do with the samples that a failure left without an outcome."""

    AGAIN = "again"
    """Back to the queue."""
    ISOLATE = "isolate"
    """Back to the queue; those that were in flight run alone from now on."""
    FEWER = "fewer"
    """Back to the queue with half as many in flight."""
    RECORD = "record"
    """Recorded as failed with this kind; the shard goes on."""
    FAIL = "fail"
    """The shard fails; a person may requeue it."""
    CANCEL = "cancel"


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often a thing may go wrong before we stop trying."""

    max_deaths: int = 3
    """Engine deaths with a sample in flight, the last of them alone, until it is quarantined."""
    max_shard_failures: int = 3
    """Charged failures of a shard that concern no single sample."""
    max_start_failures: int = 3
    """Engine starts in a row that may fail before the shards of that engine do."""
    max_losses_without_progress: int = 3
    """Worker losses in a row, without a new outcome, until a shard's samples are run one by one."""
    first_delay_seconds: float = 1.0
    """Wait before a charged retry; it doubles each time, up to a minute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The answer to one failure."""

    answer: Answer
    charged: bool = False
    delay_seconds: float = 0.0


_SHARD_GOES_ON = (FailureKind.BAD_SAMPLE, FailureKind.OVER_LENGTH)
_NOT_CHARGED = (FailureKind.WORKER_LOST, FailureKind.PREEMPTED, FailureKind.STORE_LOST)
_ENGINE_DEATHS = (FailureKind.ENGINE_CRASH, FailureKind.TIMEOUT)


def decide(kind: FailureKind, *, num_in_flight: int, at_limit: bool = False) -> Decision:
    """What to do with a shard whose attempt ended with a failure of this kind.

    `num_in_flight` counts the shard's samples in the engine at that moment; `at_limit` says that the
    device ran out of memory with a single sample in flight.
    """
    if kind in _NOT_CHARGED:
        return Decision(answer=Answer.AGAIN)
    if kind in _SHARD_GOES_ON:
        return Decision(answer=Answer.RECORD)
    if kind is FailureKind.CANCELLED:
        return Decision(answer=Answer.CANCEL)
    if kind is FailureKind.OUT_OF_MEMORY:
        return Decision(answer=Answer.RECORD if at_limit else Answer.FEWER)
    if kind in _ENGINE_DEATHS and num_in_flight:
        return Decision(answer=Answer.ISOLATE)
    if kind in _ENGINE_DEATHS:
        return Decision(answer=Answer.AGAIN)
    return Decision(answer=Answer.FAIL, charged=True)


def decide_unexplained(charged_before: int, policy: RetryPolicy) -> Decision:
    """For a shard that ended short of outcomes although its worker reported no failure."""
    if charged_before + 1 >= policy.max_shard_failures:
        return Decision(answer=Answer.FAIL, charged=True)
    return Decision(answer=Answer.AGAIN, charged=True, delay_seconds=backoff_seconds(charged_before, policy))


def is_culprit(num_deaths: int, *, alone: bool, policy: RetryPolicy) -> bool:
    """Whether a sample has been in flight at enough engine deaths, the last of them on its own."""
    return alone and num_deaths >= policy.max_deaths


def silence_counts(was_told: bool, num_losses: int, policy: RetryPolicy) -> bool:
    """Whether a worker's death without a word counts against the sample that was alone in its engine.

    Not where engines have told of the sample (`was_told`): such a death was somebody else's, or an engine will tell
    again. Unless the shard's losses go on and on.
    """
    return not was_told or num_losses >= 4 * policy.max_losses_without_progress


def may_start_again(kind: FailureKind, failures_in_a_row: int, policy: RetryPolicy) -> bool:
    """Whether an engine that could not start deserves another try."""
    return kind is not FailureKind.BAD_SPEC and failures_in_a_row < policy.max_start_failures


def backoff_seconds(failures_before: int, policy: RetryPolicy) -> float:
    """Seconds to wait before the next try: 1, 2, 4 … up to a minute."""
    return float(min(60.0, policy.first_delay_seconds * 2 ** min(failures_before, 10)))


def fewer_in_flight(current: int) -> int:
    """Half as many, at least one."""
    return max(1, current // 2)
