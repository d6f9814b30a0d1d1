"""vLLM's FlashAttention backend with sparse rows (CUDA, vLLM 0.25 to 0.33)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from sparsekernels.kvcache import split_cache
from torch import Tensor
from vllm.v1.attention.backends.flash_attn import (
    FlashAttentionBackend,
    FlashAttentionImpl,
    FlashAttentionMetadataBuilder,
)

from workers.vllm_plugin.attention import SparseAttention
from workers.vllm_plugin.methods import SparseMethods
from workers.vllm_plugin.plan import Span
from workers.vllm_plugin.step_tables import Step


class SparseFlashBackend(FlashAttentionBackend):  # type: ignore[misc]
    """Registered in the slot CUSTOM, so that is its name."""

    @staticmethod
    def get_name() -> str:
        return "CUSTOM"

    @staticmethod
    def get_impl_cls() -> type[SparseFlashAttention]:
        return SparseFlashAttention

    @staticmethod
    def get_builder_cls() -> type[SparseFlashBuilder]:
        return SparseFlashBuilder


class SparseFlashBuilder(FlashAttentionMetadataBuilder):  # type: ignore[misc]
    """Stock metadata. Graph support stays stock too: steps with sparse rows are kept out of full graphs one by one."""

    def use_cascade_attention(self, *_: Any, **__: Any) -> bool:
        # A cascade batch could not be taken apart into dense and sparse rows.
        return False


class SparseFlashAttention(SparseMethods, SparseAttention, FlashAttentionImpl):  # type: ignore[misc]
    """One layer's attention on a GPU."""

    executor = "flash"
    decode_executor = "triton"

    def _full_attention(self) -> bool:
        return bool(self.sliding_window == (-1, -1))

    def _dense_metadata(self, metadata: Any, spans: tuple[Span, ...], starts: Tensor) -> Any:
        numbers = torch.tensor([[s.row for s in spans], [s.end_position for s in spans]]).pin_memory()
        rows, lengths = numbers.to(starts.device, non_blocking=True)
        return replace(
            metadata,
            num_actual_tokens=sum(s.num_tokens for s in spans),
            max_query_len=max(s.num_tokens for s in spans),
            query_start_loc=starts,
            max_seq_len=max(s.end_position for s in spans),
            seq_lens=lengths.to(torch.int32),
            block_table=metadata.block_table[rows],
            # The stock schedule is for the whole batch; without one the kernel decides by itself.
            scheduler_metadata=None,
            max_num_splits=0,
        )

    def _step_metadata(self, metadata: Any, step: Step) -> Any:
        rows = step.shape.rows
        return replace(
            metadata,
            num_actual_tokens=rows,
            max_query_len=1,
            query_start_loc=torch.arange(rows + 1, dtype=torch.int32, device=metadata.seq_lens.device),
            # Replays may be of longer sequences than the step that was captured.
            max_seq_len=step.max_model_len,
            seq_lens=step.tables.dense_lengths(rows),
            scheduler_metadata=None,
        )

    def _keys_values(self, cache: Tensor) -> tuple[Tensor, Tensor]:
        return split_cache(cache, self.head_size)
