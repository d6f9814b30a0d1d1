"""Accelerators: memory, peak rates, and the share of the peak that long-context inference reaches on them.

Peaks are the makers' data sheets (dense bf16, no sparsity). Shares come from our runs on one H200 (Qwen2.5-7B shapes,
vLLM 0.25, 32k-token prompts: 0.99 s of prefill; FlashAttention 3 at 650 TFLOP/s; paged decode near 4.3 TB/s); the
other types take the same shares until a campaign's own outcomes correct them.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.errors import UserError

GIB = 1024**3


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuType:
    """One accelerator model."""

    name: str
    memory_gib: float
    """What the driver reports as total, GiB."""
    peak_flops: float
    """Dense bf16, FLOP/s."""
    memory_bandwidth: float
    """Bytes/s."""
    matmul_share: float = 0.65
    """Of the peak, reached by the linear layers of a long prefill."""
    attention_share: float = 0.65
    """Of the peak, reached by dense causal attention."""
    bandwidth_share: float = 0.88
    """Of the bandwidth, reached by a decode step."""
    step_seconds: float = 0.002
    """Fixed time of a decode step besides its memory traffic (launches, sampling, scheduling)."""
    parallel_share: float = 0.92
    """Left of the rates when a model is split over two or more GPUs of a node."""

    @property
    def memory_bytes(self) -> float:
        return self.memory_gib * GIB


GPU_TYPES: dict[str, GpuType] = {
    gpu.name: gpu
    for gpu in (
        GpuType(name="H200", memory_gib=139.8, peak_flops=989e12, memory_bandwidth=4.8e12),
        GpuType(name="H100", memory_gib=79.2, peak_flops=989e12, memory_bandwidth=3.35e12),
        GpuType(name="H100-NVL", memory_gib=93.1, peak_flops=835e12, memory_bandwidth=3.9e12),
        GpuType(name="B200", memory_gib=178.0, peak_flops=2250e12, memory_bandwidth=8.0e12),
        GpuType(name="A100", memory_gib=79.2, peak_flops=312e12, memory_bandwidth=2.04e12),
        GpuType(name="A100-40", memory_gib=39.4, peak_flops=312e12, memory_bandwidth=1.56e12),
        GpuType(name="L40S", memory_gib=44.4, peak_flops=362e12, memory_bandwidth=0.86e12),
        GpuType(
            name="CPU",
            memory_gib=16.0,
            peak_flops=0.3e12,
            memory_bandwidth=2.0e10,
            matmul_share=0.5,
            attention_share=0.25,
            bandwidth_share=0.5,
            step_seconds=0.01,
        ),
    )
}
"""By name. `CPU` stands for a small host of two cores, from our runs with SmolLM2-135M."""


def find_gpu(name: str) -> GpuType:
    """The type of that name, in any case. Raises UserError naming the known ones."""
    found = {known.lower(): gpu for known, gpu in GPU_TYPES.items()}.get(name.strip().lower())
    if found is None:
        raise UserError(f"unknown GPU type {name!r}; known types: {', '.join(GPU_TYPES)}")
    return found
