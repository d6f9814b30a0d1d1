"""Seconds of one engine per sample, and the bytes and operations behind them, before anything has run.

A sample costs its prefill (linear layers and attention at their rates) plus its share of the decode steps (memory
traffic of a step over the requests that share it). Checked against runs on an H200 with Qwen2.5-7B and -72B shapes
(docs/LOG.md); a campaign's own outcomes correct the rest (`cost_correction`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sparsekernels.parameters import MethodChoice

from orchestrator.domain.densities import nominal_densities
from orchestrator.domain.flops import decode_traffic, prefill_flops
from orchestrator.domain.gpu_types import GpuType
from orchestrator.domain.model_facts import ModelFacts

SPARSE_EFFICIENCY = 0.8
"""Dense attention time × density ÷ sparse attention time of our executors from 32k tokens on."""
INDEX_SHARE = 0.1
"""Of the peak rate, reached while a method chooses what to compute."""
TYPICAL_OUTPUT_TOKENS = 200
"""Mean answer length that "The Sparse Frontier" reports."""
LOAD_BYTES_PER_SECOND = 1e9
"""Weights to one GPU, from storage to their places."""
LOAD_SECONDS = 55.0
"""Start of an engine besides its weights: processes, compilation, graphs. Together they give the 129 s that
Qwen2.5-72B shapes took on two H200s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleCost:
    """One sample on one engine that keeps `in_flight` requests running."""

    prefill_seconds: float
    decode_seconds: float
    """This sample's share of the decode steps."""
    prefill_flops: float
    decode_bytes: float
    """Memory traffic of all its decode steps, its share of the weights included."""
    kv_bytes: float
    """Cache that it holds at its end, over all GPUs."""

    @property
    def seconds(self) -> float:
        return self.prefill_seconds + self.decode_seconds


def sample_cost(
    facts: ModelFacts,
    gpu: GpuType,
    *,
    tensor_parallel: int,
    pipeline_parallel: int = 1,
    length_tokens: int,
    output_tokens: float = TYPICAL_OUTPUT_TOKENS,
    method: Mapping[str, Mapping[str, Any]] | None = None,
    in_flight: float = 16,
    prefill_cached: bool = False,
) -> SampleCost:
    """The cost of one sample; `method` is the wire form of a MethodChoice, empty for dense.

    Stages work on different requests at a time: as fast as so many GPUs side by side, while there are enough requests.
    `prefill_cached`: the prompt's dense prefill is already in the engine's cache (decode-only methods, paired).
    """
    choice = MethodChoice.from_wire(method or {})
    density = nominal_densities(choice, length_tokens)
    num_gpus = tensor_parallel * pipeline_parallel
    speed = num_gpus * (gpu.parallel_share if num_gpus > 1 else 1.0) * min(1.0, max(1.0, in_flight) / pipeline_parallel)
    flops = prefill_flops(facts.shape, length_tokens, density=density.prefill, method=choice)
    efficiency = SPARSE_EFFICIENCY if density.prefill < 1.0 else 1.0
    rate = speed * gpu.peak_flops
    prefill = (flops.total - flops.attention - flops.index) / (rate * gpu.matmul_share)
    prefill += flops.attention / (rate * gpu.attention_share * efficiency) + flops.index / (rate * INDEX_SHARE)
    context = int(length_tokens + output_tokens / 2)
    step = decode_traffic(facts.shape, context, density=density.decode, method=choice)
    batch = max(1.0, in_flight / pipeline_parallel)
    step_bytes = facts.element_bytes * (step.weights / batch + step.kv_cache + step.index)
    per_token = step_bytes / (speed * gpu.memory_bandwidth * gpu.bandwidth_share) + gpu.step_seconds / batch
    return SampleCost(
        prefill_seconds=0.0 if prefill_cached else prefill,
        decode_seconds=output_tokens * per_token,
        prefill_flops=0.0 if prefill_cached else flops.total,
        decode_bytes=output_tokens * step_bytes,
        kv_bytes=facts.kv_bytes_per_token * (length_tokens + output_tokens),
    )


def load_seconds(facts: ModelFacts, num_gpus: int) -> float:
    """Start of an engine until its first sample."""
    return LOAD_SECONDS + facts.weight_bytes / (LOAD_BYTES_PER_SECOND * max(1, num_gpus))
