"""What can go wrong, by kind. The kind, not the exception, decides what the orchestrator does next."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class FailureKind(StrEnum):
    """A failure's class; `orchestrator.domain.retry` says what follows from each."""

    BAD_SPEC = "bad_spec"
    """The order itself is impossible (unknown task, missing weights): nothing to retry."""
    BAD_SAMPLE = "bad_sample"
    """This sample cannot be made or scored; its shard goes on."""
    OVER_LENGTH = "over_length"
    """The prompt and the output limit exceed the engine's context; its shard goes on."""
    OUT_OF_MEMORY = "out_of_memory"
    """The device ran out of memory; the same samples again with fewer in flight."""
    ENGINE_CRASH = "engine_crash"
    """The engine died while samples were in flight."""
    TIMEOUT = "timeout"
    """The engine made no progress for too long."""
    WORKER_LOST = "worker_lost"
    """The worker's process or node vanished."""
    PREEMPTED = "preempted"
    """The node was taken away with notice."""
    STORE_LOST = "store_lost"
    """The store was unreachable; outcomes spool and are replayed."""
    CANCELLED = "cancelled"
    """A person cancelled the campaign or shard."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A classified reason: what, where and in whose words."""

    kind: FailureKind
    message: str
    """One line, readable by a person."""
    where: str = ""
    """Stage that failed: `generate`, `engine`, `score`, `worker`, `store`."""
    detail: str = ""
    """Traceback or log tail, if any."""


class EngineError(Exception):
    """An engine could not do what was asked; `kind` classifies it."""

    kind = FailureKind.ENGINE_CRASH

    def failure(self, where: str = "engine") -> Failure:
        return Failure(kind=self.kind, message=str(self) or type(self).__name__, where=where)


class EngineDead(EngineError):
    """The engine's process is gone; every request in flight is lost."""


class EngineKilled(EngineDead):
    """Somebody killed the engine's process (SIGKILL); no sample in flight is to blame."""

    kind = FailureKind.WORKER_LOST


class EngineOutOfMemory(EngineError):
    """The device has too little memory for the model or for the batch."""

    kind = FailureKind.OUT_OF_MEMORY


class EngineStalled(EngineError):
    """No token was produced within the watchdog's limit."""

    kind = FailureKind.TIMEOUT


class EngineStartError(EngineError):
    """The engine cannot start as specified: missing weights, wrong GPU count, context too long."""

    kind = FailureKind.BAD_SPEC
