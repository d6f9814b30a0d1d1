"""Virtual pages: one flat address space in which any token range of any KV head is a page of a one-head cache.

Unit = D elements (one key of one head). Element (page p, row t, head h) of a cache view begins at unit
p·page_units + t·token_units + h·head_units, in every layout of vLLM and for contiguous keys. So a page of P tokens is
named by the unit where it begins, and FlashAttention reads it through `paged_view`. P divides the cache's page.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsekernels.kvcache import KeyValues


@dataclass(frozen=True, slots=True)
class VirtualCache:
    """Keys and values of one batch as units; made by `virtual_cache`."""

    keys: Tensor
    """[pages, page, Hkv, D], the cache's view."""
    values: Tensor
    block_table: Tensor
    """int32 [S, max_pages]."""
    page_units: int
    token_units: int
    head_units: int

    @property
    def cache_page(self) -> int:
        return int(self.keys.shape[1])

    @property
    def num_kv_heads(self) -> int:
        return int(self.keys.shape[2])

    @property
    def head_size(self) -> int:
        return int(self.keys.shape[3])

    def paged_view(self, page_size: int) -> tuple[Tensor, Tensor]:
        """Keys and values as [units, page_size, 1, D]: page u begins at unit u, rows token_units apart."""
        return _view(self.keys, page_size, self.token_units), _view(self.values, page_size, self.token_units)


def _view(x: Tensor, page_size: int, token_units: int) -> Tensor:
    d = x.shape[3]
    last = sum((n - 1) * s for n, s in zip(x.shape[:3], x.stride()[:3], strict=True)) // d
    units = max(1, last + 1 - (page_size - 1) * token_units)
    return x.as_strided((units, page_size, 1, d), (d, token_units * d, d, 1))


def virtual_cache(kv: KeyValues) -> VirtualCache:
    """Raises ValueError when keys and values differ in layout or their strides are no multiples of the head size."""
    strides, d = kv.keys.stride(), kv.keys.shape[3]
    if kv.values.stride() != strides or kv.values.shape != kv.keys.shape:
        raise ValueError(
            f"keys {tuple(kv.keys.shape)} with strides {strides} and values {tuple(kv.values.shape)} with strides "
            f"{kv.values.stride()} have no common page list"
        )
    if strides[3] != 1 or any(s % d for s in strides[:3]):
        raise ValueError(f"strides {strides} of the cache are no multiples of the head size {d}")
    return VirtualCache(kv.keys, kv.values, kv.block_table, strides[0] // d, strides[1] // d, strides[2] // d)


@dataclass(frozen=True, slots=True)
class VirtualLists:
    """Page lists in units, one for each (head, row block) of one request: what the fast executors read.

    Row blocks come in falling order, so that the longest lists are worked on first.
    """

    table: Tensor
    """int32 [H, R, W]: units, padded behind lengths; only the last page's tail is cut."""
    lengths: Tensor
    """int32 [H, R], tokens."""
    page_size: int


def sequence_units(cache: VirtualCache, page_size: int, num_pages: int) -> Tensor:
    """int32 [num_pages]: unit where each logical page of `page_size` tokens of the one sequence begins, head 0."""
    token = torch.arange(num_pages, device=cache.block_table.device) * page_size
    page = cache.block_table[0].long()[token // cache.cache_page]
    return (page * cache.page_units + token % cache.cache_page * cache.token_units).to(torch.int32)
