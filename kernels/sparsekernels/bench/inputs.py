"""Inputs to measure on: random ones, and clustered ones with the columns and diagonals of real attention."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sparsekernels.kvcache import KeyValues

QWEN_7B = (28, 4, 128)
"""Query heads, KV heads and head size of Qwen2.5-7B."""


class Inputs(NamedTuple):
    """bf16 queries [T, Hq, D], keys and values [T, Hkv, D] of one prompt."""

    q: Tensor
    k: Tensor
    v: Tensor


def random_inputs(length: int, heads: tuple[int, int, int], seed: int, device: str = "cuda") -> Inputs:
    """Independent normal numbers: no structure at all."""
    g = torch.Generator(device=device).manual_seed(seed)
    shapes = ((length, heads[0], heads[2]), (length, heads[1], heads[2]), (length, heads[1], heads[2]))
    return Inputs(*(torch.randn(s, generator=g, device=device, dtype=torch.bfloat16) for s in shapes))


def clustered_inputs(length: int, heads: tuple[int, int, int], seed: int, device: str = "cuda") -> Inputs:
    """Each KV head has runs of keys that all queries like, and offsets at which keys answer queries.

    Positions enter as cos and sin of 16 frequencies (as rotary embeddings do), so that q·k depends on the offset and
    peaks, some ten positions wide, at the local one and at five chosen ones.
    """
    q, k, v = random_inputs(length, heads, seed, device)
    g = torch.Generator().manual_seed(seed)
    num_queries, num_keys, _ = heads
    position = torch.arange(length, device=device, dtype=torch.float64)
    frequency = 10000.0 ** (-torch.arange(16, dtype=torch.float64) / 24)
    for head in range(num_keys):
        offsets = [0, *torch.randint(64, max(65, length // 2), (5,), generator=g).tolist()]
        waves = torch.stack([_waves(position + o, frequency.to(device)) for o in offsets]).mean(0)
        starts = torch.randint(0, max(1, length - 24), (max(4, length // 2048),), generator=g)
        liked = (starts[:, None] + torch.arange(24)).flatten().clamp(max=length - 1).to(device)
        k[:, head, :32] = (waves * 5).to(k.dtype)
        k[:, head, 32] = 0
        k[liked, head, 32] = 9
        k[:4, head, 32] = 14
        group = slice(head * (num_queries // num_keys), (head + 1) * (num_queries // num_keys))
        q[:, group, :32] = (_waves(position, frequency.to(device)) * 5)[:, None].to(q.dtype)
        q[:, group, 32] = 6
    return Inputs(q, k, v)


def _waves(position: Tensor, frequency: Tensor) -> Tensor:
    angle = position[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], 1)


def paged(k: Tensor, v: Tensor, page: int, seed: int = 0) -> KeyValues:
    """Keys and values [L, Hkv, D] in a cache of vLLM's layout [pages, 2, page, H, D], pages in random order."""
    length = k.shape[0]
    num_pages = -(-length // page)
    g = torch.Generator().manual_seed(seed)
    order = torch.randperm(num_pages + 1, generator=g)[:num_pages].to(k.device)
    cache = torch.full((num_pages + 1, 2, page, *k.shape[1:]), float("nan"), dtype=k.dtype, device=k.device)
    token = torch.arange(length, device=k.device)
    cache[order[token // page], 0, token % page] = k
    cache[order[token // page], 1, token % page] = v
    return KeyValues(cache[:, 0], cache[:, 1], order[None].to(torch.int32))
