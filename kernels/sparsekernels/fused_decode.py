"""Fused decode: Quest selects in two launches, attention over lists is two more; or all of it in one, on Hopper.

A CUDA graph can capture them all.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparsekernels.attend.triton_decode import Scratch, decode_lists
from sparsekernels.cuda.quest_step import find_step
from sparsekernels.decode import KeptAddresses, KeptSlots, with_generated
from sparsekernels.executors import Executor
from sparsekernels.index.quest import build_summaries, select, update_summaries
from sparsekernels.kvcache import KeyValues
from sparsekernels.methods.quest import PageLists
from sparsekernels.virtual import VirtualCache, VirtualLists, virtual_cache


def page_units(cache: VirtualCache, lists: PageLists) -> VirtualLists:
    """Physical sub-pages [B, H, W] of each list to virtual units; H is Hkv or Hq."""
    ratio = cache.cache_page // lists.page_size
    heads = lists.pages.shape[1]
    head = torch.arange(heads, device=lists.pages.device) // (heads // cache.num_kv_heads)
    page, part = lists.pages // ratio, lists.pages % ratio
    unit = page * cache.page_units + part * (lists.page_size * cache.token_units) + (head * cache.head_units)[:, None]
    return VirtualLists(unit.to(torch.int32), lists.lengths, lists.page_size)


def attend_pages(
    q: Tensor,
    kv: KeyValues,
    lists: PageLists,
    *,
    executor: Executor,
    scale: float | None = None,
    out: Tensor | None = None,
    skip_empty: bool = False,
    scratch: Scratch | None = None,
) -> Tensor:
    """See `sparsekernels.decode.attend_pages`; `executor` is FLASH or TRITON.

    With `skip_empty` (TRITON alone) rows that read nothing keep what `out` holds.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device) if out is None else out
    most = lists.pages.shape[2] * lists.page_size
    if executor is Executor.FLASH:
        from sparsekernels.attend import flash

        cache = virtual_cache(kv)
        flash.attend_decode(q, cache, page_units(cache, lists), max_tokens=most, scale=scale, out=out)
        return out
    return decode_lists(
        q, kv.keys, kv.values, lists.pages, lists.lengths, page_size=lists.page_size, max_tokens=most, scale=scale,
        out=out, skip_empty=skip_empty, scratch=scratch,
    )  # fmt: skip


def attend_best_pages(
    q: Tensor,
    kv: KeyValues,
    store: Tensor,
    seq_lens: Tensor,
    budgets: Tensor,
    *,
    page_size: int,
    max_budget: int,
    share_pages: bool = True,
    new_keys: tuple[Tensor, Tensor] | None = None,
    scale: float | None = None,
    out: Tensor | None = None,
    skip_empty: bool = False,
) -> Tensor:
    """Quest's whole step: `select`, then `attend_pages` over what it chose; q [B, Hq, D] to out [B, Hq, D].

    One launch where `cuda.quest_step` serves the call, four of Triton's elsewhere. The two round differently: outputs
    agree as two executors' do, and of two pages whose bounds agree within rounding either may be chosen.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    step = None
    if share_pages:
        step = find_step(
            q, kv, store, seq_lens, budgets, page_size=page_size, max_budget=max_budget, new_keys=new_keys,
            skip_empty=skip_empty,
        )  # fmt: skip
    if step is not None:
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device) if out is None else out
        return step(q, kv, store, seq_lens, budgets, out, scale=scale, new_keys=new_keys)
    lists = select(
        q, store, kv.block_table, seq_lens, budgets, page_size=page_size, cache_page=kv.page_size,
        max_budget=max_budget, share_pages=share_pages, new_keys=new_keys,
    )  # fmt: skip
    return attend_pages(q, kv, lists, executor=Executor.TRITON, scale=scale, out=out, skip_empty=skip_empty)


def attend_kept(
    q: Tensor,
    kv: KeyValues,
    kept: KeptSlots,
    seq_lens: Tensor,
    *,
    max_generated: int,
    executor: Executor,
    scale: float | None = None,
    out: Tensor | None = None,
    scratch: Scratch | None = None,
) -> Tensor:
    """See `sparsekernels.decode.attend_kept`; `executor` is FLASH or TRITON."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device) if out is None else out
    most = kept.slots.shape[2] + max_generated
    if executor is Executor.FLASH:
        from sparsekernels.attend import flash

        cache = virtual_cache(kv)
        slots, counts = with_generated(kept, kv.block_table, kv.page_size, seq_lens, max_generated)
        lists = page_units(cache, PageLists(slots, counts, counts, 1))
        flash.attend_decode(q, cache, lists, max_tokens=most, scale=scale, out=out)
        return out
    return decode_lists(
        q, kv.keys, kv.values, kept.slots, kept.counts, page_size=1, max_tokens=most, scale=scale, out=out,
        generated=(kv.block_table, seq_lens, kept.prompt_lengths), scratch=scratch,
    )  # fmt: skip


def attend_kept_at(
    q: Tensor,
    kv: KeyValues,
    kept: KeptAddresses,
    seq_lens: Tensor,
    *,
    max_tokens: int,
    scale: float | None = None,
    out: Tensor,
    skip_empty: bool = False,
    scratch: Scratch | None = None,
) -> Tensor:
    """`attend_kept` over lists named by address; rows that name none read nothing. One launch, capturable in a graph.

    seq_lens int32 [B], zero for such rows; `max_tokens`, a bound known on the host, sets the number of splits only.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    return decode_lists(
        q, kv.keys, kv.values, kept.slots, kept.counts, page_size=1, max_tokens=max_tokens, scale=scale, out=out,
        generated=(kv.block_table, seq_lens, kept.prompt_lengths), widths=kept.widths, skip_empty=skip_empty,
        scratch=scratch,
    )  # fmt: skip


__all__ = [
    "attend_best_pages",
    "attend_kept",
    "attend_kept_at",
    "attend_pages",
    "build_summaries",
    "page_units",
    "select",
    "update_summaries",
]
