"""One exchange between the orchestrator and a worker: orders and acknowledgements down, records up.

A worker numbers its records and keeps each until it is acknowledged; so a lost answer, a dead
orchestrator or a store that is away costs nothing. Every message carries the orchestrator's epoch,
and a worker obeys only the highest that it has seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from workers.engine import EngineFacts, EngineProgress, EngineSpec
from workers.failures import Failure
from workers.protocol import SampleOutcome, ShardOrder

RECORDS_A_REPORT = 4000
"""No report has more records than this."""


class Condition(StrEnum):
    """What a worker says of itself."""

    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    DRAINED = "drained"
    """Holds no order; everything has been reported."""
    BROKEN = "broken"
    """Its engine is dead, hangs or could not start; it only hands over its records."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStart:
    """All that a worker needs to come up."""

    name: str
    campaign: str
    engine_name: str
    """Key of `workers.factory`."""
    engine: EngineSpec
    node: str = ""
    """The host that the orchestrator chose; empty leaves it to the pool."""
    more_nodes: tuple[str, ...] = ()
    """The further hosts of an engine that spans several."""
    stall_seconds: float = 600.0
    """No token for so long while requests are in flight means that the engine hangs."""
    canary_seconds: float = 900.0
    """The known prompts run again after so long; 0 turns canaries off."""
    orphan_seconds: float = 1800.0
    """Without a word from any orchestrator for so long, and nothing left to do, the worker ends itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InFlight:
    """A sample that was in the engine when it died."""

    index: int
    sample_key: str = ""
    prompt_hash: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptEnd:
    """The worker is through with an order."""

    attempt_id: int
    failure: Failure | None = None
    """None: every ordered index was reported, or (`released`) the rest is given back."""
    released: bool = False
    in_flight: tuple[InFlight, ...] = ()
    """This attempt's samples in the engine when it failed."""
    num_in_flight: int = 0
    """All samples in the engine then, of whatever attempt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryResult:
    """What the known prompts gave: a digest for each."""

    digests: Mapping[str, str]


Record = SampleOutcome | AttemptEnd | CanaryResult


def unproven_after(records: Iterable[Record], before: bool) -> bool:
    """Whether a worker has given completions since its last canary, `before` being so ahead of `records`."""
    for record in records:
        if isinstance(record, CanaryResult):
            before = False
        elif isinstance(record, SampleOutcome) and record.failure is None:
            before = True
    return before


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerMessage:
    """From the orchestrator."""

    epoch: int
    orders: tuple[ShardOrder, ...] = ()
    acknowledged: int = 0
    """All records numbered up to this one are safe in the store."""
    seen: int = 0
    """All records up to this one have arrived; they are kept, but not sent again."""
    withdrawn: tuple[int, ...] = ()
    """Attempts that are no longer current: drop them, report nothing more of them."""
    release: bool = False
    """Give back every sample that is not in the engine yet (the campaign is paused)."""
    drain_seconds: float | None = None
    """Take no more work and be done within this time."""
    prove: bool = False
    """Run the known prompts as soon as the engine is empty."""
    room: int = RECORDS_A_REPORT
    """Records that the orchestrator can take in now; the worker keeps the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerReport:
    """From the worker: where it stands, and its records that are not acknowledged yet."""

    name: str
    condition: Condition
    first_record: int
    """Number of `records[0]`, whether or not there is one."""
    records: tuple[Record, ...] = ()
    attempts: tuple[int, ...] = ()
    """Orders whose end is not yet among its records."""
    flying: tuple[int, ...] = ()
    """Of these, the orders with samples in the engine."""
    num_pending: int = 0
    """Samples ordered and not yet in the engine."""
    failure: Failure | None = None
    """Why it is broken."""
    facts: EngineFacts | None = None
    progress: EngineProgress = field(default_factory=lambda: EngineProgress(num_in_flight=0, num_tokens_total=0))
    node: str = ""
    pid: int = 0


class StaleOrchestrator(Exception):
    """The message came from an orchestrator that has been superseded."""
