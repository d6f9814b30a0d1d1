"""Decode: Quest and kept-token attention against dense FlashAttention, inside CUDA graphs, on memory out of cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from sparsekernels import fused_decode
from sparsekernels.attend import flash
from sparsekernels.attend.triton_decode import new_scratch, num_splits
from sparsekernels.bench.inputs import QWEN_7B
from sparsekernels.bench.timing import graph_us
from sparsekernels.cuda.quest_step import find_step
from sparsekernels.decode import KeptSlots
from sparsekernels.executors import Executor
from sparsekernels.kvcache import KeyValues
from sparsekernels.methods.quest import PageLists

PAGE = 16
BYTES_A_SECOND = 4.3e12
"""What a copy reaches on an H200; the bound divides by it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeCost:
    """One measured line; microseconds a layer, inside a CUDA graph over several layers' memory."""

    method: str
    executor: str
    length: int
    batch: int
    budget: int
    dense_us: float
    """Dense FlashAttention: over the whole length for Quest, over the kept length for kept tokens."""
    select_us: float
    """Of `total_us`; zero where selection is no launch of its own."""
    total_us: float
    bound_us: float
    """Bytes that must be read ÷ 4.3 TB/s."""


def layers_for(batch: int, length: int) -> int:
    """Layers whose memory together is several times the L2 cache, within 16 GiB."""
    per_layer = batch * length * QWEN_7B[1] * QWEN_7B[2] * 4
    return max(2, min(8, (16 << 30) // per_layer))


def _caches(batch: int, length: int, layers: int) -> list[KeyValues]:
    pages = batch * (length // PAGE)
    made = []
    for _ in range(layers):
        cache = torch.randn(pages, 2, PAGE, *QWEN_7B[1:], device="cuda", dtype=torch.bfloat16)
        table = torch.randperm(pages, device="cuda").view(batch, -1).to(torch.int32)
        made.append(KeyValues(cache[:, 0], cache[:, 1], table))
    return made


def _graph(call: Callable[[int], Any], layers: int) -> float:
    return graph_us([partial(call, i) for i in range(layers)])


def measure_quest(length: int, batch: int, budget: int) -> Iterator[DecodeCost]:
    """Pages of 16, lists shared by a KV head's query heads; the step in one launch ("cuda"), and selected first."""
    layers, device = layers_for(batch, length), torch.device("cuda")
    caches = _caches(batch, length, layers)
    heads, kv_heads, d = QWEN_7B
    stores = [_summaries(c, length) for c in caches]
    q = [torch.randn(batch, heads, d, device=device, dtype=torch.bfloat16) for _ in caches]
    out = torch.empty_like(q[0])
    lens = torch.full((batch,), length - 5, dtype=torch.int32, device=device)
    budgets = torch.full((batch,), budget, dtype=torch.int32, device=device)

    def select(i: int) -> PageLists:
        return fused_decode.select(
            q[i], stores[i], caches[i].block_table, lens, budgets, page_size=PAGE, cache_page=PAGE, max_budget=budget
        )

    def both(executor: Executor, i: int) -> None:
        fused_decode.attend_pages(q[i], caches[i], select(i), executor=executor, out=out)

    dense, chosen = _graph(lambda i: _dense(q[i], caches[i], lens, length, out), layers), _graph(select, layers)
    bound = batch * kv_heads * (length / PAGE * 4 * d + budget * 4 * d) / BYTES_A_SECOND * 1e6
    step = find_step(q[0], caches[0], stores[0], lens, budgets, page_size=PAGE, max_budget=budget)
    if step is not None:
        whole = _graph(lambda i: step(q[i], caches[i], stores[i], lens, budgets, out, scale=d**-0.5), layers)
        yield DecodeCost(
            method="quest", executor="cuda", length=length, batch=batch, budget=budget, dense_us=dense,
            select_us=0.0, total_us=whole, bound_us=bound,
        )  # fmt: skip
    for executor in (Executor.TRITON, Executor.FLASH):
        yield DecodeCost(
            method="quest", executor=executor, length=length, batch=batch, budget=budget, dense_us=dense,
            select_us=chosen, total_us=_graph(partial(both, executor), layers), bound_us=bound,
        )  # fmt: skip


def _summaries(kv: KeyValues, length: int) -> torch.Tensor:
    batch, device = kv.block_table.shape[0], kv.keys.device
    store = torch.empty(kv.keys.shape[0], kv.num_kv_heads, 2, kv.keys.shape[-1], device=device, dtype=kv.keys.dtype)
    rows = torch.arange(batch, dtype=torch.int32, device=device)
    lengths = torch.full((batch,), length, dtype=torch.int32, device=device)
    fused_decode.build_summaries(store, kv.keys, kv.block_table, rows, lengths, page_size=PAGE, max_length=length)
    return store


def _dense(q: torch.Tensor, kv: KeyValues, lens: torch.Tensor, length: int, out: torch.Tensor) -> None:
    cu = torch.arange(q.shape[0] + 1, dtype=torch.int32, device=q.device)
    flash.varlen(
        q, kv.keys, kv.values, cu_seqlens_q=cu, max_seqlen_q=1, seqused_k=lens, max_seqlen_k=length,
        block_table=kv.block_table, causal=True, out=out,
    )  # fmt: skip


def measure_kept(length: int, batch: int, capacity: int, generated: int = 128) -> Iterator[DecodeCost]:
    """`capacity` kept tokens a KV head and `generated` since; dense reads as many tokens from its own pages."""
    layers, device = layers_for(batch, length), torch.device("cuda")
    caches = _caches(batch, length, layers)
    heads, kv_heads, d = QWEN_7B
    q = [torch.randn(batch, heads, d, device=device, dtype=torch.bfloat16) for _ in caches]
    out = torch.empty_like(q[0])
    prompt = length - generated
    kept = [_kept(c, batch, prompt, capacity) for c in caches]
    lens = torch.full((batch,), length, dtype=torch.int32, device=device)
    short = torch.full((batch,), capacity + generated, dtype=torch.int32, device=device)
    rows, most = batch * kv_heads, capacity + generated
    scratch = new_scratch(rows, num_splits(rows, most, 1, d), heads // kv_heads, d, device)

    def attend(executor: Executor, i: int) -> None:
        fused_decode.attend_kept(
            q[i], caches[i], kept[i], lens, max_generated=generated, executor=executor, out=out, scratch=scratch
        )

    dense = _graph(lambda i: _dense(q[i], caches[i], short, most, out), layers)
    bound = rows * most * 4 * d / BYTES_A_SECOND * 1e6
    for executor in (Executor.TRITON, Executor.FLASH):
        yield DecodeCost(
            method="kept", executor=executor, length=length, batch=batch, budget=capacity, dense_us=dense,
            select_us=0.0, total_us=_graph(partial(attend, executor), layers), bound_us=bound,
        )  # fmt: skip


def _kept(kv: KeyValues, batch: int, prompt: int, capacity: int) -> KeptSlots:
    """Random prompt tokens, others for each request and KV head, as slots."""
    device, heads = kv.keys.device, kv.num_kv_heads
    tokens = torch.rand(batch, heads, prompt, device=device).topk(capacity, -1).indices.sort(-1).values
    page = kv.block_table.long()[:, None].expand(-1, heads, -1).gather(2, tokens // PAGE)
    counts = torch.full((batch, heads), capacity, dtype=torch.int32, device=device)
    prompts = torch.full((batch,), prompt, dtype=torch.int32, device=device)
    return KeptSlots((page * PAGE + tokens % PAGE).to(torch.int32), counts, prompts)
