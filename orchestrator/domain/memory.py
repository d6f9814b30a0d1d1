"""Does a model fit on its GPUs, and how much KV cache is left? Follows vLLM's accounting, from shapes alone.

vLLM (`Worker.determine_available_memory`) gives the KV cache what remains of `utilization × total memory` after the
weights, the peak of one forward pass over `num_batched_tokens`, and what libraries take. CUDA graphs live in what the
utilization leaves free (model runner V2 of vLLM 0.25 sets nothing aside for them). Our plugin then keeps one part in
`PAGE_SUMMARY_SHARE` for Quest's page summaries. vLLM refuses to start when the rest cannot hold one request of
`max_model_len`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from orchestrator.domain.gpu_types import GIB, GpuType
from orchestrator.domain.model_facts import ModelFacts
from workers.engine import PAGE_SUMMARY_SHARE

SAMPLER_BYTES_PER_LOGIT = 24
"""Logits in float32, their sorted copy with 8-byte indices, probabilities and one temporary."""
LIBRARY_BYTES = 0.25 * GIB
"""Kernels and workspaces loaded during the profiling pass, per GPU."""
HIDDEN_STATES, EAGER_HIDDEN_STATES = 3, 4
"""Tensors of tokens × hidden size alive at the widest point of a layer."""
COMMUNICATION_BYTES = 0.25 * GIB
"""All-reduce buffers per GPU when a model is split."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """Bytes per GPU, and what they allow."""

    weight_bytes: int
    activation_bytes: int
    """Peak of one forward pass besides the weights."""
    overhead_bytes: int
    kv_bytes: int
    """Left for the KV cache; may be negative."""
    kv_bytes_per_token: int
    """On one GPU of the gang."""
    kv_capacity_tokens: int
    kv_needed_bytes: int
    """For one request of the full length."""
    requests_at_full_length: float
    """How many requests of `max_model_len` the cache holds."""

    @property
    def fits(self) -> bool:
        return self.kv_bytes > 0 and self.kv_needed_bytes <= self.kv_bytes

    @property
    def verdict(self) -> str:
        """One phrase for people."""
        if self.fits:
            return f"fits: {self.kv_capacity_tokens:,} KV tokens, {self.requests_at_full_length:.1f} requests at once"
        if self.kv_bytes <= 0:
            used = self.weight_bytes + self.activation_bytes + self.overhead_bytes
            return f"does not fit: {used / GIB:.1f} GiB per GPU before any KV cache"
        return f"does not fit: {self.kv_needed_bytes / GIB:.1f} GiB of KV needed, {self.kv_bytes / GIB:.1f} GiB left"


def plan_memory(
    facts: ModelFacts,
    gpu: GpuType,
    *,
    tensor_parallel: int,
    pipeline_parallel: int = 1,
    max_model_len: int,
    num_batched_tokens: int | None = None,
    max_in_flight: int = 16,
    utilization: float = 0.9,
    page_size: int = 16,
    kv_cache_bytes: float | None = None,
    eager: bool = False,
    page_summaries: bool = True,
) -> MemoryPlan:
    """The plan for one engine. `num_batched_tokens` defaults to a whole prompt and a token for each other request.

    `kv_cache_bytes` fixes the KV cache per GPU, as vLLM's option of that name does, whatever the utilization.
    `eager`: not compiled. `page_summaries`: with our plugin, which keeps room for them; False for a stock engine.
    """
    weights = _weight_bytes(facts, tensor_parallel, pipeline_parallel)
    batched = num_batched_tokens or max_model_len + max_in_flight
    activation = _activation_bytes(facts, tensor_parallel, batched, max_in_flight, eager)
    overhead = int(LIBRARY_BYTES + (COMMUNICATION_BYTES if tensor_parallel * pipeline_parallel > 1 else 0))
    left = int(gpu.memory_bytes * utilization) - weights - activation - overhead
    if kv_cache_bytes is not None:
        room = gpu.memory_bytes - weights - activation - overhead
        left = int(kv_cache_bytes) if kv_cache_bytes <= room else int(room - kv_cache_bytes)
    elif page_summaries and left > 0:
        left -= left // PAGE_SUMMARY_SHARE
    stage = _largest_stage(facts, pipeline_parallel)
    per_token = ceil(_kv_bytes_per_token(facts, tensor_parallel) * stage)
    needed = ceil(_needed_bytes(facts, tensor_parallel, max_model_len, batched, page_size) * stage)
    requests = max(left, 0) / needed
    hybrid = facts.shape.local_layers > 0
    pages = max(left, 0) // (per_token * page_size)
    return MemoryPlan(
        weight_bytes=weights,
        activation_bytes=activation,
        overhead_bytes=overhead,
        kv_bytes=left,
        kv_bytes_per_token=per_token,
        kv_capacity_tokens=int(requests * max_model_len) if hybrid else pages * page_size,
        kv_needed_bytes=needed,
        requests_at_full_length=requests,
    )


def smallest_tensor_parallel(
    facts: ModelFacts, gpu: GpuType, *, max_model_len: int, gpus_per_node: int = 8, **options: float
) -> int | None:
    """The smallest power of two of GPUs of one node on which the model fits, or None."""
    size = 1
    while size <= gpus_per_node:
        plan = plan_memory(facts, gpu, tensor_parallel=size, max_model_len=max_model_len, **options)  # type: ignore[arg-type]
        if facts.check_tensor_parallel(size) is None and plan.fits:
            return size
        size *= 2
    return None


def _largest_stage(facts: ModelFacts, pipeline_parallel: int) -> float:
    """Share of the layers in the pipeline stage that holds most; the others get as much room for KV as that one."""
    return ceil(facts.shape.num_layers / pipeline_parallel) / facts.shape.num_layers


def _weight_bytes(facts: ModelFacts, tensor_parallel: int, pipeline_parallel: int) -> int:
    """Split evenly, but KV projections are copied once there are more GPUs than KV heads; the vision tower too.

    Of several stages the first holds the embeddings and the last the head: one table in the fullest.
    """
    shape = facts.shape
    copies = max(1, tensor_parallel // shape.num_kv_heads)
    extra_kv = (copies - 1) * 2 * shape.num_layers * shape.hidden_size * shape.kv_size
    split: float = facts.num_parameters - facts.extra_parameters + extra_kv
    if pipeline_parallel > 1:
        layers = (facts.layer_parameters + extra_kv) * _largest_stage(facts, pipeline_parallel)
        split = layers + shape.vocab_size * shape.hidden_size
    return int((split / tensor_parallel + facts.extra_parameters) * facts.element_bytes)


def _activation_bytes(facts: ModelFacts, tensor_parallel: int, batched: int, max_in_flight: int, eager: bool) -> int:
    """The larger of the widest point of a layer and of sampling.

    A layer is widest in its MLP: gate, up and their product, beside hidden states: the residual before and after
    the attention and the attention's output, which the caller of the compiled piece holds. Eagerly there are four:
    the MLP's input and output, the residual, and the previous layer's output.
    """
    shape, size = facts.shape, facts.element_bytes
    mlp = 3 * shape.intermediate_size / tensor_parallel
    attention = (3 * shape.query_size + 4 * shape.kv_size) / tensor_parallel
    hidden = (EAGER_HIDDEN_STATES if eager else HIDDEN_STATES) * shape.hidden_size
    layer = batched * size * (max(mlp, attention) + hidden)
    inputs = batched * 24
    sampling = max_in_flight * shape.vocab_size * SAMPLER_BYTES_PER_LOGIT + batched * size * shape.hidden_size
    return int(max(layer, sampling) + inputs)


def _kv_heads_per_gpu(facts: ModelFacts, tensor_parallel: int) -> int:
    return max(1, facts.shape.num_kv_heads // tensor_parallel)


def _kv_bytes_per_layer(facts: ModelFacts, tensor_parallel: int) -> int:
    return 2 * _kv_heads_per_gpu(facts, tensor_parallel) * facts.shape.head_dim * facts.element_bytes


def _kv_bytes_per_token(facts: ModelFacts, tensor_parallel: int) -> int:
    return facts.shape.num_layers * _kv_bytes_per_layer(facts, tensor_parallel)


def _needed_bytes(facts: ModelFacts, tensor_parallel: int, max_model_len: int, batched: int, page_size: int) -> int:
    """One request of full length; a local layer holds its window and the tokens of the pass under way."""
    shape = facts.shape
    full = ceil(max_model_len / page_size) * page_size
    window = ceil(min(max_model_len, shape.window_tokens - 1 + batched) / page_size + 1) * page_size
    local = min(window, full)
    return _kv_bytes_per_layer(facts, tensor_parallel) * (shape.global_layers * full + shape.local_layers * local)
