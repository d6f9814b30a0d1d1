"""What the views hand out: frozen records with plain values. Times are seconds since 1970, database clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.domain.states import CampaignState, WorkerState
from workers.engine import EngineSpec
from workers.failures import FailureKind
from workers.protocol import TaskOrder


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignHeader:
    """A campaign and its totals."""

    id: int
    name: str
    state: CampaignState
    spec: Mapping[str, Any]
    spec_hash: str
    code_revision: str
    engine_name: str
    created_at: float
    started_at: float | None
    finished_at: float | None
    store_now: float
    """The database's clock when this was read."""
    orchestrator: str | None
    """Who drives it (`host:pid:token`); None when nobody does."""
    orchestrator_alive: bool
    """Its lease had not run out when this was read."""
    epoch: int
    num_cells: int
    num_samples: int
    num_recorded: int
    num_correct: int
    num_incorrect: int
    num_unanswered: int
    num_unscored: int
    """Recorded without a score, failures included."""
    num_failed: int
    """Recorded as failures."""
    shards: Mapping[str, int]
    """Number of shards in each state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellRow:
    """One cell with its counters."""

    id: int
    key: str
    position: int
    """Order in the spec's grid."""
    model_name: str
    engine: EngineSpec
    task: TaskOrder
    task_label: str
    length_tokens: int
    seed: int
    method: Mapping[str, Mapping[str, Any]]
    method_label: str
    budget: str
    compression: float | None
    max_output_tokens: int
    num_samples: int
    num_recorded: int
    num_correct: int
    num_incorrect: int
    num_unanswered: int
    """Wrong, because no answer was found."""
    num_unscored: int
    """Recorded without a score (we failed them); not in the mean."""
    num_failed: int
    num_scored: int
    """With a score: what the mean is over. Rules that drop unanswered samples make it smaller."""
    score_sum: float
    score_square_sum: float
    density_prefill: float | None
    """Measured, mean over samples; None before the first."""
    density_decode: float | None
    """Measured, mean over the samples that decoded."""
    kv_kept: float | None
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    seconds_total_sum: float
    seconds_to_first_token_sum: float
    seconds_decode_sum: float
    first_recorded_at: float | None
    last_recorded_at: float | None

    @property
    def score(self) -> float | None:
        """Mean of the scores; unanswered count as they were scored (zero), unscored are left out."""
        return self.score_sum / self.num_scored if self.num_scored else None

    @property
    def score_variance(self) -> float | None:
        """Unbiased variance of the scores; None below two."""
        n = self.num_scored
        if n < 2:
            return None
        return max(0.0, (self.score_square_sum - self.score_sum**2 / n) / (n - 1))

    @property
    def is_dense(self) -> bool:
        return not self.method


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRow:
    """One worker as its orchestrator last knew it."""

    id: int
    name: str
    pool: str
    state: WorkerState
    model_name: str
    node: str
    pid: int | None
    device: str
    engine: str
    """`vllm 0.32.0 cpu`, `fake`, …; empty while loading."""
    executor: str
    num_weight_loads: int
    load_seconds: float
    kv_capacity_tokens: int
    started_at: float
    seen_at: float
    stopped_at: float | None
    num_in_flight: int
    num_queued: int
    num_tokens: int
    kv_use: float
    num_outcomes: int
    num_open_attempts: int
    good_canary_at: float | None
    last_words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRow:
    """Something that happened."""

    id: int
    at: float
    kind: str
    shard_id: int | None
    attempt_id: int | None
    worker: str | None
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureRow:
    """A classified failure and what was done about it."""

    id: int
    at: float
    kind: FailureKind
    answer: str
    """`again`, `isolate`, `fewer`, `record`, `quarantine`, `fail`, `cancel`."""
    charged: bool
    cell_key: str | None
    model_name: str | None
    task: str | None
    length_tokens: int | None
    method_label: str | None
    budget: str | None
    shard_id: int | None
    attempt_id: int | None
    worker: str | None
    sample_index: int | None
    where: str
    message: str
    detail: str
    reproduction: str
    """A command that runs the sample alone; empty when there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Speed over the last minute of recorded work; None while there is too little."""

    window_seconds: float
    samples_per_second: float | None
    prompt_tokens_per_second: float | None
    output_tokens_per_second: float | None
    num_in_flight: int
    history: tuple[tuple[float, int, int, int], ...] = ()
    """(time, samples recorded, prompt tokens, output tokens), cumulative, oldest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignSnapshot:
    """All that a screen of one campaign needs, read in one transaction."""

    header: CampaignHeader
    cells: tuple[CellRow, ...]
    workers: tuple[WorkerRow, ...]
    events: tuple[EventRow, ...]
    """The latest, newest first."""
    failures: tuple[FailureRow, ...]
    """The latest, newest first."""
    rates: Rates


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeRow:
    """One recorded sample, with the identity of its cell."""

    cell_id: int
    cell_key: str
    sample_index: int
    sample_key: str
    prompt_hash: str
    attempt_id: int
    worker_id: int
    recorded_at: float
    verdict: str
    score: float | None
    failure_kind: FailureKind | None
    extracted: str
    reason: str
    finish_reason: str
    completion: str
    """Empty unless the completions were asked for."""
    num_prompt_tokens: int
    num_cached_tokens: int
    num_output_tokens: int
    density_prefill: float | None
    density_decode: float | None
    kv_kept: float | None
    num_decode_steps: int
    seconds_to_first_token: float
    seconds_decode: float
    seconds_total: float
    extras: Mapping[str, Any] | None
