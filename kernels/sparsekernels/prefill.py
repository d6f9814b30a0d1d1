"""Sparse prefill of one request: choose, then attend. The call that an engine makes in each layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sparsekernels.attend import reference
from sparsekernels.calibration import analytic_density
from sparsekernels.choosing import Place, choose, is_chosen
from sparsekernels.executors import Executor, parse_executor
from sparsekernels.kvcache import KeyValues
from sparsekernels.methods import block_sparse, flexprefill, vertical_slash
from sparsekernels.parameters import BlockSparse, FlexPrefill, VerticalSlash
from sparsekernels.selection import Selection, SelectionError

PrefillMethod = VerticalSlash | FlexPrefill | BlockSparse


@dataclass(frozen=True, slots=True)
class PrefillResult:
    """Output of one layer's sparse prefill, with what is needed for its density (no host synchronisation)."""

    out: Tensor
    """[T, Hq, D]."""
    computed_pairs: Tensor
    """int64 [Hq] on the device: query-key pairs computed under the causal mask."""
    allowed_pairs: int
    """Pairs that the causal mask allows, per head."""
    ran_dense: bool = False
    """True when `dense_above` sent the call to dense attention."""

    def density(self) -> Tensor:
        """float64 scalar on the device."""
        return self.computed_pairs.double().mean() / self.allowed_pairs


def select(
    q: Tensor,
    k: Tensor,
    method: PrefillMethod,
    *,
    scale: float | None = None,
    row_block: int | None = None,
    place: Place | None = None,
) -> Selection:
    """The reference selection of any prefill method for q [T, Hq, D], the last T rows over k [L, Hkv, D].

    `row_block` (64 when None) is for vertical-slash and FlexPrefill; block-sparse carries its own. `place` is for
    methods that come through the door.
    """
    if is_chosen(method):
        return choose(q, k, method, place or Place(scale=q.shape[-1] ** -0.5 if scale is None else scale))
    if isinstance(method, BlockSparse):
        return block_sparse.select(q, k, method)
    if isinstance(method, FlexPrefill):
        return flexprefill.select(q, k, method, scale=scale, row_block=row_block or 64)
    return vertical_slash.select(q, k, method, scale=scale, row_block=row_block or 64)


def sparse_prefill(
    q: Tensor,
    kv: KeyValues,
    method: PrefillMethod,
    *,
    length: int,
    executor: str = Executor.FLASH,
    scale: float | None = None,
    row_block: int | None = None,
    out: Tensor | None = None,
    dense_above: float | None = None,
    place: Place | None = None,
) -> PrefillResult:
    """Attention of q [T, Hq, D], the last T of `length` positions of the one sequence in `kv`.

    kv.block_table is [1, max_pages] (see `kvcache.contiguous` for unpaged keys). `row_block` is the number of query
    rows that share a list for vertical-slash and FlexPrefill: None means 64 on the reference executor (the definition)
    and 128 on the others (a superset, see `methods.vertical_slash`). Writes into `out` when given. With `dense_above`,
    a method whose density is known beforehand (`calibration.analytic_density`) and larger runs dense, on record.
    """
    kind = parse_executor(executor)
    _check_place(q, kv, length)
    if q.shape[0] == 0:
        return PrefillResult(q if out is None else out, torch.zeros(q.shape[1], dtype=torch.int64, device=q.device), 0)
    if dense_above is not None and (analytic_density(method, q.shape[0], length) or 0.0) > dense_above:
        return _dense(q, kv, length, kind, scale, out)
    if is_chosen(method):
        selection = select(q, kv.gather(0, length)[0], method, scale=scale, place=place)
        return attend_selection(q, kv, selection, length=length, executor=kind, scale=scale, out=out)
    if kind is not Executor.REFERENCE:
        from sparsekernels import fused_prefill

        return fused_prefill.sparse_prefill(
            q, kv, method, length=length, executor=kind, scale=scale, row_block=row_block, out=out
        )
    keys, _ = kv.gather(0, length)
    selection = select(q, keys, method, scale=scale, row_block=row_block)
    return attend_selection(q, kv, selection, length=length, executor=kind, scale=scale, out=out)


def attend_selection(
    q: Tensor,
    kv: KeyValues,
    selection: Selection,
    *,
    length: int,
    executor: str = Executor.FLASH,
    scale: float | None = None,
    out: Tensor | None = None,
) -> PrefillResult:
    """Attention of q [T, Hq, D], the last T of `length` positions, over a selection made elsewhere, on any executor."""
    kind = parse_executor(executor)
    _check_place(q, kv, length)
    if kind is not Executor.REFERENCE:
        from sparsekernels import fused_prefill

        return fused_prefill.attend_selection(q, kv, selection, length=length, executor=kind, scale=scale, out=out)
    result = reference.attend_prefill(q, kv, selection, scale).out
    if out is not None:
        result = out.copy_(result)
    computed = selection.computed_pairs()
    if len(computed) != q.shape[1]:
        computed = computed.repeat_interleave(q.shape[1] // len(computed))
    return PrefillResult(result, computed, allowed_pairs(q.shape[0], length))


def sparse_prefill_batch(
    q: Tensor,
    kv: KeyValues,
    methods: Sequence[PrefillMethod],
    *,
    query_lengths: Sequence[int],
    lengths: Sequence[int],
    executor: str = Executor.FLASH,
    scale: float | None = None,
    row_block: int | None = None,
    out: Tensor | None = None,
) -> list[PrefillResult]:
    """`sparse_prefill` of several requests, each with its own method: q [sum of T, Hq, D] packed in their order.

    Request i has query_lengths[i] rows, lengths[i] tokens and row i of kv.block_table. The results' outputs are views
    of one tensor, `out` when given.
    """
    if sum(query_lengths) != q.shape[0] or not len(methods) == len(query_lengths) == len(lengths):
        raise ValueError(
            f"{q.shape[0]} query rows for {len(methods)} methods, {len(lengths)} lengths and query lengths "
            f"{list(query_lengths)}"
        )
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device) if out is None else out
    results, start = [], 0
    for i, (method, rows, length) in enumerate(zip(methods, query_lengths, lengths, strict=True)):
        own = KeyValues(kv.keys, kv.values, kv.block_table[i : i + 1])
        part = slice(start, start + rows)
        results.append(
            sparse_prefill(
                q[part], own, method, length=length, executor=executor, scale=scale, row_block=row_block, out=out[part]
            )
        )
        start += rows
    return results


def _check_place(q: Tensor, kv: KeyValues, length: int) -> None:
    """Kernels would read and write memory that is not theirs."""
    if q.shape[0] > length:
        raise SelectionError(f"{q.shape[0]} query rows do not fit in a sequence of {length} tokens")
    capacity = kv.page_size * (1 if kv.keys.shape[0] == 1 else kv.block_table.shape[1])
    if length > capacity:
        raise SelectionError(f"length is {length}; the sequence's pages hold {capacity} tokens")


def _dense(
    q: Tensor, kv: KeyValues, length: int, kind: Executor, scale: float | None, out: Tensor | None
) -> PrefillResult:
    pairs = allowed_pairs(q.shape[0], length)
    if kind is Executor.FLASH:
        from sparsekernels.attend import flash
        from sparsekernels.virtual import virtual_cache

        out = torch.empty(q.shape, dtype=q.dtype, device=q.device) if out is None else out
        flash.dense_prefill(q, virtual_cache(kv), length, q.shape[-1] ** -0.5 if scale is None else scale, out)
        return PrefillResult(out, torch.full((q.shape[1],), pairs, device=q.device), pairs, ran_dense=True)
    everything = BlockSparse(top_blocks=max(8, -(-length // 64)), block_size=64, row_block=128)
    result = sparse_prefill(q, kv, everything, length=length, executor=kind, scale=scale, out=out)
    return replace(result, ran_dense=True)


def allowed_pairs(num_queries: int, length: int) -> int:
    """Pairs that the causal mask allows for the last `num_queries` of `length` positions."""
    first = length - num_queries
    return num_queries * first + num_queries * (num_queries + 1) // 2
