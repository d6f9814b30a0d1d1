"""The `flash` executor: stock FlashAttention over virtual page lists. Each (row block, head) is a sequence of its own.

The lists end with the row block's own positions, so the stock causal rule (aligned to the bottom right corner) is the
true one. FlashAttention 3 takes any page size from 1; FlashAttention 2 only multiples of 16.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache as cached
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from sparsekernels.virtual import VirtualCache, VirtualLists


@cached
def _flash() -> tuple[Callable[..., Any], int]:
    try:
        from vllm.vllm_flash_attn import flash_attn_varlen_func
    except ImportError as error:
        raise ImportError(f"the flash executor needs vLLM's FlashAttention for CUDA: {error}") from None
    return flash_attn_varlen_func, 3 if torch.cuda.get_device_capability()[0] == 9 else 2


def flash_version() -> int:
    """3 on Hopper, 2 elsewhere."""
    return _flash()[1]


def varlen(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Any:
    """vLLM's flash_attn_varlen_func at this GPU's version; options as there."""
    function, version = _flash()
    return function(q, k, v, fa_version=version, **options)


def dense_prefill(q: Tensor, cache: VirtualCache, length: int, scale: float, out: Tensor) -> Tensor:
    """Dense causal attention of q [T, Hq, D], the last T of `length` positions, into out [T, Hq, D]."""
    device = q.device
    cu = torch.tensor([0, q.shape[0]], dtype=torch.int32, device=device)
    common: dict[str, Any] = dict(
        cu_seqlens_q=cu, max_seqlen_q=q.shape[0], max_seqlen_k=length, softmax_scale=scale, causal=True, num_splits=1
    )
    if cache.keys.shape[0] == 1:
        cu_k = torch.tensor([0, length], dtype=torch.int32, device=device)
        varlen(q, cache.keys[0, :length], cache.values[0, :length], cu_seqlens_k=cu_k, out=out, **common)
        return out
    used = torch.tensor([length], dtype=torch.int32, device=device)
    varlen(q, cache.keys, cache.values, seqused_k=used, block_table=cache.block_table[:1], out=out, **common)
    return out


@lru_cache(maxsize=16)
def row_starts(num_rows: int, length: int, row_block: int, heads: int, device: torch.device) -> Tensor:
    """cu_seqlens int32 [heads·R + 1] of packed rows (`index.pack`), cut at absolute multiples of row_block; kept."""
    first = length - num_rows
    blocks = torch.arange(first // row_block, -(-length // row_block), device=device)
    start = (num_rows - (blocks.flip(0) * row_block + row_block - first)).clamp(min=0)
    packed = (torch.arange(heads, device=device)[:, None] * num_rows + start).flatten()
    return torch.nn.functional.pad(packed, (0, 1), value=heads * num_rows).to(torch.int32)


def attend_packed(
    q: Tensor, cache: VirtualCache, lists: VirtualLists, cu_seqlens: Tensor, *, row_block: int, length: int,
    scale: float, out: Tensor,
) -> None:  # fmt: skip
    """Rows q [h·T, G, D], packed head by head, over lists [h, R, W] into out of the same shape (strided is fine).

    G query heads share a list when lists are per KV head, else 1.
    """
    keys, values = cache.paged_view(lists.page_size)
    # FlashAttention 3 reads pages of whole tiles by bulk copies when a sequence may have more rows than a tile. Those
    # read whole pages, so there must be no page whose end is unused or beyond the cache.
    whole = lists.page_size % 128 == 0 and length % lists.page_size == 0 and cache.cache_page % lists.page_size == 0
    most = row_block + 1 if whole else row_block
    varlen(
        q, keys, values, cu_seqlens_q=cu_seqlens, max_seqlen_q=most, seqused_k=lists.lengths.flatten(),
        max_seqlen_k=length, block_table=lists.table.flatten(0, 1), softmax_scale=scale, causal=True, num_splits=1,
        out=out,
    )  # fmt: skip


def attend_decode(
    q: Tensor,
    cache: VirtualCache,
    lists: VirtualLists,
    *,
    max_tokens: int,
    scale: float,
    out: Tensor,
    num_splits: int = 0,
) -> None:
    """One query a (request, KV head): q [B, Hq, D] over lists [B, Hkv, W], lengths [B, Hkv], into out [B, Hq, D]."""
    batch, heads, d = q.shape
    kv_heads = lists.table.shape[1]
    keys, values = cache.paged_view(lists.page_size)
    rows = batch * kv_heads
    varlen(
        q.reshape(rows, heads // kv_heads, d), keys, values,
        cu_seqlens_q=torch.arange(rows + 1, dtype=torch.int32, device=q.device), max_seqlen_q=1,
        seqused_k=lists.lengths.flatten(), max_seqlen_k=max_tokens, block_table=lists.table.flatten(0, 1),
        softmax_scale=scale, causal=True, num_splits=num_splits, out=out.view(rows, heads // kv_heads, d),
    )  # fmt: skip
