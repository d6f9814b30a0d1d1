"""Keys and values of a batch, contiguous or paged, in one form.

A cache is a pair of views [pages, page, Hkv, D] with any strides (last one 1). A contiguous sequence [L, Hkv, D] is a
cache of one page of L tokens. vLLM's layouts become such views with `split_cache`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class KeyValues:
    """Keys and values of S sequences."""

    keys: Tensor
    """[pages, page, Hkv, D], any strides."""
    values: Tensor
    block_table: Tensor
    """int32 [S, max_pages]: physical page of each logical page."""

    @property
    def page_size(self) -> int:
        return int(self.keys.shape[1])

    @property
    def num_kv_heads(self) -> int:
        return int(self.keys.shape[2])

    def gather(self, sequence: int, length: int) -> tuple[Tensor, Tensor]:
        """The first `length` keys and values of a sequence, [length, Hkv, D] each (a copy when paged)."""
        if self.keys.shape[0] == 1:
            return self.keys[0, :length], self.values[0, :length]
        pages = self.block_table[sequence, : -(-length // self.page_size)].long()
        return self.keys[pages].flatten(0, 1)[:length], self.values[pages].flatten(0, 1)[:length]


def contiguous(keys: Tensor, values: Tensor) -> KeyValues:
    """One sequence of contiguous keys and values [L, Hkv, D]."""
    return KeyValues(keys[None], values[None], torch.zeros(1, 1, dtype=torch.int32, device=keys.device))


def split_cache(cache: Tensor, head_size: int) -> tuple[Tensor, Tensor]:
    """Views [pages, page, Hkv, D] of the keys and the values in one of vLLM's cache tensors.

    Known: [pages, 2, page, H, D] (0.25, CUDA), [2, pages, page, H, D] (before), [pages, H, page, 2·D] (0.26 and later).
    Raises ValueError for any other shape.
    """
    if cache.dim() == 5 and cache.shape[-1] == head_size and cache.shape[1] == 2:
        return cache[:, 0], cache[:, 1]
    if cache.dim() == 5 and cache.shape[-1] == head_size and cache.shape[0] == 2:
        return cache[0], cache[1]
    if cache.dim() == 4 and cache.shape[-1] == 2 * head_size:
        split = cache.transpose(1, 2)
        return split[..., :head_size], split[..., head_size:]
    raise ValueError(f"no known cache layout has the shape {tuple(cache.shape)} with heads of {head_size}")
