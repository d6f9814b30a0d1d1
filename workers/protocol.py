"""What travels between the orchestrator and a worker: orders down, outcomes up. Plain data, picklable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from workers.engine import EngineSpec
from workers.failures import Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOrder:
    """Which task, at which parameters; with length, tokenizer, seed and index it identifies a sample."""

    name: str
    version: int
    parameters: Mapping[str, Any]
    scoring: str = "default"
    """`default` or `sparse_frontier_v1`."""
    plugin: str | None = None
    """Package and version that adds the task; None for our own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardOrder:
    """One attempt at one shard: identities and indices, no prompts."""

    campaign: str
    cell_key: str
    shard_id: int
    attempt_id: int
    """The fence: every outcome names it."""
    engine: EngineSpec
    task: TaskOrder
    length_tokens: int
    """Target prompt length after the chat template."""
    seed: int
    indices: tuple[int, ...]
    """Sample indices still missing."""
    isolated: tuple[int, ...] = ()
    """Of these, the ones that were in flight when an engine died: each runs alone in the engine."""
    method: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    max_output_tokens: int = 1024
    max_in_flight: int | None = None
    """Lowered after an out-of-memory failure; None leaves it to the engine's own limit."""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """`temperature`, `top_p`, `top_k`; empty is greedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleOutcome:
    """What an attempt reports for one sample: a scored completion or a failure."""

    attempt_id: int
    shard_id: int
    cell_key: str
    index: int
    sample_key: str = ""
    """Hash of the sample's identity."""
    prompt_hash: str = ""
    """Hash of the prompt's token ids: equal across methods, or the comparison is not paired."""
    failure: Failure | None = None
    verdict: str = "unscored"
    """`correct`, `incorrect`, `unanswered` or `unscored`."""
    score: float | None = None
    """In [0, 1]; None when unscored."""
    extracted: str = ""
    reason: str = ""
    completion: str = ""
    finish_reason: str = ""
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_output_tokens: int = 0
    density_prefill: float | None = None
    density_decode: float | None = None
    kv_kept: float | None = None
    num_decode_steps: int = 0
    seconds_to_first_token: float = 0.0
    seconds_decode: float = 0.0
    seconds_total: float = 0.0
    """From submission to the end of generation."""
    extras: Mapping[str, Any] = field(default_factory=dict)
    """Secondary scores and counters that a task or an engine adds; small and JSON-able."""
