"""The seam between orchestration and inference: one protocol, implemented by `vllm_engine` and `fake_engine`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from workers.failures import Failure

PAGE_SUMMARY_SHARE = 17
"""One part in 17 of the cache's memory: a maximum and a minimum for every 16 tokens, beside keys and values."""


GANGS_BY_GPU = "tensor_parallel_by_gpu"
"""Key of `EngineSpec.options`: GPUs of one engine by GPU type, where they differ from `tensor_parallel`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """A model as loaded on given GPUs. A method is not part of it: every engine serves all methods."""

    model: str
    """Local folder with config.json, weights and tokenizer."""
    model_fingerprint: str = ""
    """Hash of the revision or of the weights; stored with every attempt."""
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    """Stages that the layers are cut into; an engine holds tensor_parallel × pipeline_parallel GPUs."""
    num_nodes: int = 1
    """Above 1 only on request: its GPUs lie in equal shares on so many hosts, and vLLM reaches them through Ray."""
    dtype: str = "auto"
    """`auto`, `float32`, `bfloat16` or `float16`."""
    max_model_len: int
    """Prompt and output tokens of one request, at most."""
    rope_scaling: Mapping[str, Any] | None = None
    """The resolved RoPE override (for example YaRN with its factor), or None for the model's own."""
    load_format: str = "auto"
    """`auto`, or `dummy` for random weights of the real shapes."""
    max_in_flight: int = 16
    """Requests that the engine may run at once."""
    kv_cache_gib: float | None = None
    """KV cache memory, GiB; None leaves it to the engine (required to be modest on a CPU)."""
    gpu_memory_utilization: float = 0.9
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further engine arguments, passed through and recorded."""

    @property
    def num_gpus(self) -> int:
        """On all its hosts together."""
        return self.tensor_parallel * self.pipeline_parallel

    @property
    def gpus_per_node(self) -> int:
        return self.num_gpus // self.num_nodes

    def on_gpus(self, num_gpus: int | None) -> EngineSpec:
        """The same engine where it takes so many GPUs (another GPU type); None: as it is."""
        return self if num_gpus is None else replace(self, tensor_parallel=num_gpus // self.pipeline_parallel)


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One prompt for the engine, with its method."""

    request_id: str
    prompt_token_ids: Sequence[int]
    max_tokens: int
    method: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Wire form of `sparsekernels.parameters.MethodChoice`; empty is dense."""
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    cache_group: str | None = None
    """Requests of one group may share what a prefill left in the cache: dense ones any common prefix, sparse ones of
    equal parameters the same prompt."""
    report_layers: bool = False
    """Ask for densities per layer in `Generation.layers`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """What the engine made of one request, with what it measured on the way."""

    request_id: str
    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    """`stop` or `length`."""
    num_prompt_tokens: int
    num_cached_tokens: int = 0
    """Prompt tokens served from the prefix cache."""
    density_prefill: float = 1.0
    """Measured share of the causally allowed query–key pairs computed in the prefill, mean over layers and heads."""
    density_decode: float = 1.0
    """The same over all decode steps; 1.0 when there was none."""
    kv_kept: float = 1.0
    """Share of the prompt's cache entries that stay readable after compression."""
    num_decode_steps: int = 0
    seconds_to_first_token: float = 0.0
    seconds_decode: float = 0.0
    seconds_queued: float = 0.0
    num_preemptions: int = 0
    kv_tokens_peak: int = 0
    """Most cache entries (prompt and generated tokens, shared ones too) that it held at once in each layer; 0 where the
    engine does not count them."""
    layers: Mapping[str, Sequence[float]] | None = None
    """Per layer: `density_prefill`, `density_decode`, `kv_kept`; on demand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationFailure:
    """The engine lives, but this request failed."""

    request_id: str
    failure: Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """Recorded once an engine is up."""

    engine: str
    """`vllm 0.32.0 cpu`, `fake`, …"""
    device: str
    executor: str
    """Which sparse executor runs: `reference`, `flash`, `triton`."""
    num_weight_loads: int
    """How often weights were loaded into this engine: 1, and it stays 1 when methods change."""
    load_seconds: float
    kv_capacity_tokens: int
    max_model_len: int
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineProgress:
    """A cheap reading for heartbeats and the watchdog."""

    num_in_flight: int
    num_tokens_total: int
    """Prompt tokens prefilled plus tokens generated since the start; it stands still when the engine hangs."""
    kv_use: float = 0.0
    """Share of the KV cache in use, 0 to 1."""


class Engine(Protocol):
    """A loaded model that runs many requests of different methods at once.

    Not thread-safe: one thread submits and polls. `submit` and `poll` raise `EngineError`
    (EngineDead, EngineOutOfMemory, EngineStalled) when every request in flight is lost.
    """

    @property
    def facts(self) -> EngineFacts: ...

    def submit(self, request: GenerationRequest) -> None:
        """Queue a request. An impossible one (too long, bad method) comes back from `poll` as a failure."""

    def poll(self, timeout_seconds: float) -> list[Generation | GenerationFailure]:
        """Whatever finished; blocks up to `timeout_seconds` while nothing has."""
        ...

    def abort(self, request_id: str) -> None:
        """Forget a request; it never comes back from `poll`. Unknown ids are ignored."""

    def progress(self) -> EngineProgress: ...

    def close(self) -> None:
        """Shut down and free the device. Idempotent; safe after EngineDead."""
