"""vLLM's CPU backend with sparse rows. Dense rows run in the stock kernel; methods run in torch (the reference)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from sparsekernels.choosing import Place
from sparsekernels.kvcache import KeyValues
from sparsekernels.prefill import PrefillResult
from torch import Tensor
from vllm import _custom_ops as ops
from vllm import envs
from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend, CPUAttentionBackendImpl

from workers.vllm_plugin.attention import SparseAttention
from workers.vllm_plugin.masked import masked_prefill
from workers.vllm_plugin.methods import SparseMethods
from workers.vllm_plugin.plan import Span


class SparseCPUBackend(CPUAttentionBackend):  # type: ignore[misc]
    """Keeps the stock name: the layer looks it up among the known backends."""

    @staticmethod
    def get_impl_cls() -> type[SparseCPUAttention]:
        return SparseCPUAttention


class SparseCPUAttention(SparseMethods, SparseAttention, CPUAttentionBackendImpl):  # type: ignore[misc]
    """One layer's attention on a CPU."""

    def _full_attention(self) -> bool:
        return bool(self.sliding_window == -1)

    def _dense_metadata(self, metadata: Any, spans: tuple[Span, ...], starts: Tensor) -> Any:
        lengths = torch.tensor([span.end_position for span in spans], dtype=torch.int32)
        plan = ops.cpu_attn_get_scheduler_metadata(
            num_reqs=len(spans),
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_size,
            seq_lens=lengths,
            dtype=self._cache_dtype,
            query_start_loc=starts,
            causal=True,
            sliding_window_size=-1,
            isa=self._isa,
            enable_kv_split=envs.VLLM_CPU_ATTN_SPLIT_KV,
        )
        return replace(
            metadata,
            num_actual_tokens=sum(span.num_tokens for span in spans),
            max_query_len=max(span.num_tokens for span in spans),
            query_start_loc=starts,
            max_seq_len=max(span.end_position for span in spans),
            seq_lens=lengths,
            block_table=metadata.block_table[[span.row for span in spans]],
            scheduler_metadata=plan,
        )

    def _run_prefill(
        self, q: Tensor, cache: KeyValues, method: Any, length: int, out: Tensor, place: Place | None
    ) -> PrefillResult:
        return masked_prefill(q, *cache.gather(0, length), method, self.scale, out, place)

    def forward(self, layer: Any, query: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self._isa, self._cache_dtype = layer.isa, query.dtype
        return super().forward(layer, query, *args, **kwargs)  # type: ignore[no-any-return]

    def _keys_values(self, cache: Tensor) -> tuple[Tensor, Tensor]:
        return packed_views(cache, self.head_size, self._isa)


def packed_views(cache: Tensor, head_size: int, isa: str) -> tuple[Tensor, Tensor]:
    """Keys and values [pages, page, KV heads, head size] as views of a cache [pages, KV heads, page, 2·head size].

    Within a page of a head the vector kernels keep keys transposed ([head size, page]) and values plain; a test
    checks this with vLLM's own writer. Raises NotImplementedError for tiled layouts (AMX), which are no views.
    """
    if isa not in ("vec", "vec16", "neon"):
        raise NotImplementedError(f"the CPU cache layout of {isa!r} is tiled; set the block size to 16 for a plain one")
    pages, heads, page, _ = cache.shape
    page_stride, head_stride = cache.stride(0), cache.stride(1)
    size, offset = (pages, page, heads, head_size), cache.storage_offset()
    keys = cache.as_strided(size, (page_stride, 1, head_stride, page), offset)
    values = cache.as_strided(size, (page_stride, head_size, head_stride, 1), offset + page * head_size)
    return keys, values
