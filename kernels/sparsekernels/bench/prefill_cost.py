"""Prefill: every method and executor against dense FlashAttention and FlexAttention, in one run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sparsekernels import calibration, fused_prefill
from sparsekernels.attend import flash
from sparsekernels.bench.inputs import QWEN_7B, Inputs, clustered_inputs, random_inputs
from sparsekernels.bench.timing import back_to_back_ms
from sparsekernels.executors import Executor
from sparsekernels.kvcache import KeyValues, contiguous
from sparsekernels.parameters import BlockSparse, FlexPrefill, VerticalSlash
from sparsekernels.prefill import PrefillMethod, allowed_pairs, sparse_prefill
from sparsekernels.virtual import virtual_cache

ROW_BLOCK = 128
INPUTS: dict[str, Callable[[int, tuple[int, int, int], int], Inputs]] = {
    "random": random_inputs,
    "clustered": clustered_inputs,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillCost:
    """One measured line; times are medians in milliseconds of calls issued back to back."""

    length: int
    inputs: str
    method: str
    executor: str
    parameters: dict[str, Any]
    density: float
    """Pairs computed over pairs allowed."""
    tile_density: float
    """Whole 128 × 128 tiles run over whole causal tiles."""
    dense_ms: float
    total_ms: float
    index_ms: float
    """Choosing and writing lists, without attending."""

    @property
    def f(self) -> float:
        """Dense time × density ÷ sparse time: the share of skipped work that became saved time."""
        return self.dense_ms * self.density / self.total_ms

    @property
    def f_tile(self) -> float:
        return self.dense_ms * self.tile_density / self.total_ms


def measure(lengths: list[int], kinds: list[str], targets: list[float], *, flex: bool) -> Iterator[PrefillCost]:
    """Costs at each length, kind of input and target density; Qwen2.5-7B's heads, bf16, one prompt."""
    for length in lengths:
        for kind in kinds:
            x = INPUTS[kind](length, QWEN_7B, 5)
            yield from _measure_inputs(x, length, kind, targets, flex=flex)
            torch.cuda.empty_cache()


def _measure_inputs(x: Inputs, length: int, kind: str, targets: list[float], *, flex: bool) -> Iterator[PrefillCost]:
    kv, out = contiguous(x.k, x.v), torch.empty_like(x.q)
    cache, scale = virtual_cache(kv), QWEN_7B[2] ** -0.5
    dense = back_to_back_ms(lambda: flash.dense_prefill(x.q, cache, length, scale, out))
    for target in targets:
        for method in methods_at(x.q, kv, length, target):
            lengths = fused_prefill.list_lengths(x.q, kv, method, length=length)
            common: dict[str, Any] = dict(
                length=length, inputs=kind, method=method.name, parameters=asdict(method),
                density=_density(lengths, length), tile_density=_tile_density(lengths, length), dense_ms=dense,
            )  # fmt: skip
            index = back_to_back_ms(partial(fused_prefill.list_lengths, x.q, kv, method, length=length))
            for executor in ("flash", "triton") if target == targets[0] and length <= 32768 else ("flash",):
                call = partial(sparse_prefill, x.q, kv, method, length=length, row_block=ROW_BLOCK, out=out)
                total = back_to_back_ms(partial(call, executor=executor))
                yield PrefillCost(executor=executor, total_ms=total, index_ms=index, **common)
            if flex and kind == "random" and isinstance(method, BlockSparse) and method.block_size == ROW_BLOCK:
                total = _flex_attention_ms(x, method, length)
                yield PrefillCost(executor="flex_attention", total_ms=total, index_ms=0.0, **common)


def methods_at(q: Tensor, kv: KeyValues, length: int, target: float) -> list[PrefillMethod]:
    """Each method with parameters that reach the target density on these queries and keys."""

    def measured(method: VerticalSlash | FlexPrefill) -> float:
        return _density(fused_prefill.list_lengths(q, kv, method, length=length), length)

    slash = VerticalSlash(vertical_size=64, slash_size=64)
    coverage = FlexPrefill(alpha=0.9, min_budget=128, window=256)
    return [
        *(
            calibration.block_sparse_for(
                BlockSparse(top_blocks=16, block_size=size, row_block=ROW_BLOCK), target, length
            )
            for size in (64, 128)
        ),
        calibration.vertical_slash_for(slash, target, length, measured),
        calibration.flexprefill_for(coverage, target, length, measured, grow=True),
    ]


def _density(lengths: Tensor, length: int) -> float:
    pairs = fused_prefill.pairs_of(lengths, length, length, ROW_BLOCK)
    return float(pairs.double().mean()) / allowed_pairs(length, length)


def _tile_density(lengths: Tensor, length: int) -> float:
    blocks = -(-length // ROW_BLOCK)
    tiles = (lengths + 127) // 128
    return float(tiles.sum(1).double().mean()) / (blocks * (blocks + 1) / 2)


def _flex_attention_ms(x: Inputs, method: BlockSparse, length: int) -> float:
    """FlexAttention over the same 128 × 128 block lists, lists given."""
    from torch.nn.attention.flex_attention import BlockMask, flex_attention

    plan = fused_prefill.make_plan(
        x.q, virtual_cache(contiguous(x.k, x.v)), method, length=length, executor=Executor.TRITON,
        scale=QWEN_7B[2] ** -0.5,
    )  # fmt: skip
    heads, blocks = QWEN_7B[0], -(-length // ROW_BLOCK)
    table = torch.zeros(heads, blocks, plan.width, dtype=torch.int32, device=x.q.device)
    tokens = torch.zeros(heads, blocks, dtype=torch.int32, device=x.q.device)
    plan.build(0, table, tokens)
    table, tokens = table.flip(1), tokens.flip(1)  # Row blocks in rising order.
    counts = -(-tokens // ROW_BLOCK)
    kv_head = torch.arange(heads, device=x.q.device)[:, None, None] // (heads // QWEN_7B[1])
    # Contiguous keys: a page's unit is token · Hkv + head, so its block number comes back by division.
    ids = ((table - kv_head) // (QWEN_7B[1] * ROW_BLOCK)).to(torch.int32)
    wide = torch.zeros(heads, blocks, blocks, dtype=torch.int32, device=x.q.device)
    wide[..., : ids.shape[2]] = ids
    full = torch.where(torch.arange(blocks, device=x.q.device) < (counts - 1)[..., None], wide, 0)
    last = wide.gather(2, (counts - 1).long()[..., None]).expand(-1, -1, blocks)
    mask = BlockMask.from_kv_blocks(
        torch.ones_like(counts)[None], last[None].contiguous(), (counts - 1)[None], full[None].contiguous(),
        BLOCK_SIZE=ROW_BLOCK, mask_mod=lambda b, h, i, j: i >= j,
    )  # fmt: skip
    compiled = torch.compile(flex_attention, dynamic=False)
    q, k, v = (y.transpose(0, 1)[None].contiguous() for y in x)
    return back_to_back_ms(lambda: compiled(q, k, v, block_mask=mask, enable_gqa=True))
