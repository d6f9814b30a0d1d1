"""One decode step over selected cache entries, for a batch of requests of one method."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsekernels.attend import reference
from sparsekernels.executors import Executor, parse_executor
from sparsekernels.kvcache import KeyValues
from sparsekernels.methods.quest import PageLists
from sparsekernels.methods.snapkv import KeptTokens


@dataclass(frozen=True, slots=True)
class KeptSlots:
    """What SnapKV or Ada-SnapKV kept for B requests: cache slots (physical page · cache page size + row)."""

    slots: Tensor
    """int32 [B, Hkv, W], padded behind `counts` with valid slots."""
    counts: Tensor
    """int32 [B, Hkv]."""
    prompt_lengths: Tensor
    """int32 [B]: tokens at and after this position were generated, and are all read."""


@dataclass(frozen=True, slots=True)
class KeptAddresses:
    """The same, without copying the requests' lists into one table: where each row's own lists lie on the device.

    For launches in a CUDA graph, whose rows change hands between replays. The lists must live as long as a row names
    them; rows that are not SnapKV's name none (zero) and have prompt length zero.
    """

    slots: Tensor
    """int64 [B]: addresses of int32 [Hkv, widths]."""
    counts: Tensor
    """int64 [B]: addresses of int32 [Hkv]."""
    widths: Tensor
    """int64 [B]."""
    prompt_lengths: Tensor
    """int32 [B]."""


def kept_slots(kept: list[KeptTokens], block_table: Tensor, cache_page: int, width: int) -> KeptSlots:
    """Kept token positions of B requests to cache slots, block_table int32 [B, max_pages], in tables `width` wide."""
    rows = []
    for i, request in enumerate(kept):
        tokens = request.tokens[:, :width].long()
        slots = block_table[i].long()[tokens // cache_page] * cache_page + tokens % cache_page
        rows.append(torch.nn.functional.pad(slots, (0, width - slots.shape[1])).to(torch.int32))
    lengths = torch.tensor([r.prompt_length for r in kept], dtype=torch.int32, device=block_table.device)
    return KeptSlots(torch.stack(rows), torch.stack([r.counts for r in kept]), lengths)


def attend_pages(
    q: Tensor,
    kv: KeyValues,
    lists: PageLists,
    *,
    executor: str = Executor.TRITON,
    scale: float | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Output [B, Hq, D] of one query a request over `lists` (Quest). No synchronisation; capturable in a CUDA graph."""
    kind = parse_executor(executor)
    if kind is not Executor.REFERENCE:
        from sparsekernels import fused_decode

        return fused_decode.attend_pages(q, kv, lists, executor=kind, scale=scale, out=out)
    inside = torch.arange(lists.page_size, device=q.device)
    tokens = (lists.pages.long()[..., None] * lists.page_size + inside).flatten(-2)
    result = reference.attend_decode(q, kv, tokens, lists.lengths, scale).out
    return result if out is None else out.copy_(result)


def attend_kept(
    q: Tensor,
    kv: KeyValues,
    kept: KeptSlots,
    seq_lens: Tensor,
    *,
    max_generated: int,
    executor: str = Executor.TRITON,
    scale: float | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Output [B, Hq, D] over the kept prompt tokens and everything generated since (SnapKV, Ada-SnapKV).

    kv.block_table int32 [B, max_pages]; seq_lens int32 [B], the current token included; max_generated, a bound on
    seq_lens − prompt_lengths known on the host. No synchronisation.
    """
    kind = parse_executor(executor)
    if kind is not Executor.REFERENCE:
        from sparsekernels import fused_decode

        return fused_decode.attend_kept(
            q, kv, kept, seq_lens, max_generated=max_generated, executor=kind, scale=scale, out=out
        )
    if seq_lens.device.type == "cpu":  # the bound is generous, and here the number itself costs nothing
        max_generated = min(max_generated, max(0, int((seq_lens - kept.prompt_lengths).max())))
    tokens, counts = with_generated(kept, kv.block_table, kv.page_size, seq_lens, max_generated)
    result = reference.attend_decode(q, kv, tokens, counts, scale).out
    return result if out is None else out.copy_(result)


def with_generated(
    kept: KeptSlots, block_table: Tensor, cache_page: int, seq_lens: Tensor, max_generated: int
) -> tuple[Tensor, Tensor]:
    """Kept slots followed by the generated tokens' slots: int64 [B, Hkv, W + max_generated], counts int32 [B, Hkv]."""
    width = kept.slots.shape[2] + max_generated
    index = torch.arange(width, device=kept.slots.device).expand(*kept.counts.shape, -1)
    late = index - kept.counts[..., None]
    position = (kept.prompt_lengths[:, None, None] + late.clamp(min=0)).long()
    page = (position // cache_page).clamp(max=block_table.shape[1] - 1)
    table = block_table.long()[:, None].expand(-1, kept.counts.shape[1], -1)
    generated = table.gather(2, page) * cache_page + position % cache_page
    early = kept.slots.long().gather(2, index.clamp(max=kept.slots.shape[2] - 1))
    counts = kept.counts + (seq_lens - kept.prompt_lengths)[:, None]
    return torch.where(late < 0, early, generated), counts.to(torch.int32)
