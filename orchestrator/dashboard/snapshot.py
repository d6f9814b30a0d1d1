"""What the dashboard shows, as plain frozen data: one consistent reading of the store at one moment.

Rendering, keys and plain log lines know these types alone; `orchestrator.dashboard.read` fills them.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

FINISHED_STATES = frozenset({"complete", "cancelled"})
"""Campaign states after which nothing more will happen by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Eta:
    """Seconds until the campaign's last outcome, as an interval."""

    low_seconds: float
    high_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The campaign as a whole."""

    campaign: str
    state: str
    """`ready`, `running`, `paused`, `complete` or `cancelled`."""
    is_driven: bool
    """An orchestrator holds the campaign now."""
    store: str
    """The store's URL without its password."""
    taken_at: datetime
    """When the store was read, by the store's own clock, UTC."""
    started_at: datetime | None
    finished_at: datetime | None
    num_samples: int
    num_recorded: int
    """Samples with an outcome, good or bad."""
    num_scored: int
    num_unanswered: int
    """Scored as wrong because the completion held no answer."""
    num_failed: int
    """Samples that ended unscored: we failed them, and means leave them out."""
    num_retries: int
    """Attempts that ended in a failure and were followed by another one."""
    samples_per_second: float | None
    """Over the last minutes; None until something finished."""
    tokens_per_second: float | None
    eta: Eta | None
    num_workers: int
    """Those that are starting, ready or draining."""
    num_busy_workers: int
    num_gpus: int
    """Held by those workers; 0 on a CPU."""
    gpu_busy_share: float | None
    """Share of the held GPUs with requests in flight, 0 to 1."""

    @property
    def is_finished(self) -> bool:
        return self.state in FINISHED_STATES

    @property
    def done_share(self) -> float:
        """Recorded share of all samples, 0 to 1; an empty campaign is complete."""
        return self.num_recorded / self.num_samples if self.num_samples else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CellView:
    """One cell of the grid with its counters."""

    key: str
    model: str
    method: str
    """`dense`, `quest`, `vertical_slash+quest` …"""
    budget: str
    """The knob in the method's own unit, as text; empty for dense."""
    task: str
    """The task with what sets it apart from its siblings in the grid."""
    length_tokens: int
    seed: int
    num_samples: int
    num_recorded: int
    num_scored: int
    num_unanswered: int
    num_failed: int
    score_sum: float
    num_leased_shards: int = 0

    @property
    def is_complete(self) -> bool:
        return self.num_recorded >= self.num_samples


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerView:
    """One worker: a process with an engine."""

    name: str
    host: str
    gpus: str
    """`4×`: number of GPUs; `cpu` where there are none."""
    engine: str
    """Model and tensor-parallel size, for example `Qwen2.5-72B tp4`."""
    state: str
    """`starting`, `idle`, `busy`, `draining`, `broken`, `lost`, `stopped`."""
    shard: str
    """What it works on: method, budget, task, length; empty when idle."""
    shard_done: int
    shard_samples: int
    num_in_flight: int
    tokens_per_second: float | None
    kv_use: float | None
    """Share of the KV cache in use, 0 to 1."""
    heartbeat_age_seconds: float | None
    num_recorded: int = 0
    """Samples recorded by this worker so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureView:
    """One recent failure."""

    at: datetime
    kind: str
    place: str
    """Cell and sample, or the worker."""
    message: str
    consequence: str = ""
    """What followed: `retried`, `recorded`, `quarantined` …"""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureCount:
    """How often a kind of failure happened in the whole campaign."""

    kind: str
    num: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EventView:
    """One recent event."""

    at: datetime
    kind: str
    text: str
    sequence: int = 0
    """Grows with every event: what a reader has seen already is below it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One consistent reading of a campaign."""

    header: Header
    cells: tuple[CellView, ...]
    """In the order of the spec."""
    workers: tuple[WorkerView, ...]
    failures: tuple[FailureView, ...]
    """The latest ones, newest first."""
    failure_counts: tuple[FailureCount, ...]
    """All of the campaign, most frequent first."""
    events: tuple[EventView, ...]
    """The latest ones, newest first."""

    def as_json(self) -> dict[str, Any]:
        """The snapshot as JSON values: times in ISO 8601, the fields' names as here."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self), default=str))
        return plain
