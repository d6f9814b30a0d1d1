# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
"""SnapKV's and Ada-SnapKV's votes, fused: the window's probabilities never reach memory, and keys are read in place.

The definition is `sparsekernels.methods.snapkv.votes`. Each program owns a tile of keys of one KV head and goes over
the window rows of its query heads in order, so two runs give the same bits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsekernels.index.addresses import token_units
from sparsekernels.index.estimate import LOG2E, row_norms
from sparsekernels.index.launch import CHANGING
from sparsekernels.methods.snapkv import smooth
from sparsekernels.parameters import AdaSnapKV, SnapKV
from sparsekernels.virtual import VirtualCache

TILE = 64


@triton.jit(do_not_specialize=CHANGING)
def _votes(
    q, k, block_table, lse, votes,
    stride_qt, stride_qh, page_units, token_stride_units, head_units,
    num_queries, length, window, scale_log2,
    D: tl.constexpr, GROUP: tl.constexpr, TILE: tl.constexpr, PAGE: tl.constexpr, PAGED: tl.constexpr,
    ADAPTIVE: tl.constexpr,
):  # fmt: skip
    tile, kv_head = tl.program_id(0), tl.program_id(1)
    column = tile * TILE + tl.arange(0, TILE)
    d, i = tl.arange(0, D), tl.arange(0, TILE)
    unit = token_units(column, column < length, block_table, page_units, token_stride_units, PAGE, PAGED)
    unit += kv_head.to(tl.int64) * head_units
    key = tl.load(k + unit[:, None] * D + d[None, :], mask=column[:, None] < length, other=0.0)
    found = tl.zeros([TILE], tl.float32)
    for g in range(GROUP):
        head = (kv_head * GROUP + g).to(tl.int64)
        for m in range(0, window, TILE):
            row = m + i
            q_row = (num_queries - window + row).to(tl.int64)
            query = tl.load(
                q + q_row[None, :] * stride_qt + head * stride_qh + d[:, None], mask=row[None, :] < window, other=0.0
            )
            norm = tl.load(lse + head * window + row, mask=row < window, other=float("inf"))
            p = tl.exp2(tl.dot(key, query, input_precision="ieee") * scale_log2 - norm[None, :])
            if tile * TILE + TILE > length - window:
                p = tl.where(column[:, None] <= length - window + row[None, :], p, 0.0)
            if ADAPTIVE:
                found = tl.maximum(found, tl.max(p, 1))
            else:
                found += tl.sum(p, 1)
    if not ADAPTIVE:
        found = found / GROUP
    tl.store(votes + kv_head.to(tl.int64) * length + column, found, mask=column < length)


def votes(q: Tensor, cache: VirtualCache, length: int, parameters: SnapKV | AdaSnapKV, scale: float) -> Tensor:
    """Smoothed votes, float32 [Hkv, L], for q [T, Hq, D], the last T positions of the one sequence in `cache`.

    T is at least the window, or all positions.
    """
    num_queries, heads, d = q.shape
    window, group = min(parameters.window, num_queries), heads // cache.num_kv_heads
    paged = cache.keys.shape[0] > 1
    lse = row_norms(q, cache, length, window, scale)
    raw = torch.empty(cache.num_kv_heads, length, dtype=torch.float32, device=q.device)
    _votes[(triton.cdiv(length, TILE), cache.num_kv_heads)](
        q, cache.keys, cache.block_table, lse, raw,
        q.stride(0), q.stride(1), cache.page_units, cache.token_units, cache.head_units,
        num_queries, length, window, scale * LOG2E,
        D=d, GROUP=group, TILE=TILE, PAGE=cache.cache_page if paged else 1, PAGED=paged,
        ADAPTIVE=isinstance(parameters, AdaSnapKV), num_warps=4, num_stages=2,
    )  # fmt: skip
    return smooth(raw, parameters.kernel_size)
