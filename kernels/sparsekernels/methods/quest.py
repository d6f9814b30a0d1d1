"""Quest: at each step, the pages with the highest upper bound of q·k (arXiv 2406.10774), in every layer.

A side store keeps, for each physical page and KV head, the element-wise maximum and minimum of its keys. The bound of a
page for a query head is Σ_d max(q_d·min_d, q_d·max_d) = max(q, 0)·maximum + min(q, 0)·minimum. Every page before the
current one competes; the best token_budget / page_size stay, and the current page is always read on top. With
share_pages the bounds are summed over the query heads of a KV head, which then read the same pages. Ties go to the
lower page.

Quest's pages may be smaller than the cache's: `page_size` divides the cache's page, and page p of the cache holds the
physical sub-pages p·n … p·n + n − 1, with n = cache page ÷ page_size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsekernels.ranking import ascending_ids, top_mask


@dataclass(frozen=True, slots=True)
class PageLists:
    """What each (request, head) reads in one decode step; heads are KV heads (shared) or query heads."""

    pages: Tensor
    """int32 [B, H, W]: physical sub-pages, ascending in the sequence, the current page last, padded behind counts."""
    counts: Tensor
    """int32 [B, H], pages."""
    lengths: Tensor
    """int32 [B, H], tokens: (counts − 1) · page_size + tokens of the current page."""
    page_size: int


def new_store(num_cache_pages: int, cache_page: int, page_size: int, keys: Tensor) -> Tensor:
    """An empty summary store [sub-pages, Hkv, 2, D] in the keys' dtype: maximum first, minimum second.

    `keys` is the cache's key view [pages, page, Hkv, D].
    """
    if cache_page % page_size:
        raise ValueError(f"quest pages of {page_size} tokens do not divide the cache's pages of {cache_page}")
    shape = (num_cache_pages * (cache_page // page_size), keys.shape[2], 2, keys.shape[3])
    return torch.zeros(shape, dtype=keys.dtype, device=keys.device)


def build_summaries(store: Tensor, keys: Tensor, block_table: Tensor, length: int, page_size: int) -> None:
    """Fill the store for one sequence of `length` tokens from the cache's keys [pages, page, Hkv, D]; tails excluded.

    `block_table` int32 [max_pages] is the sequence's own row.
    """
    cache_page = keys.shape[1]
    table = block_table[: -(-length // cache_page)].long()
    tokens = keys[table].reshape(-1, page_size, *keys.shape[2:])
    written = torch.arange(len(table) * cache_page, device=keys.device).view(-1, page_size, 1, 1) < length
    high = tokens.masked_fill(~written, -float("inf")).amax(1)
    low = tokens.masked_fill(~written, float("inf")).amin(1)
    used = -(-length // page_size)
    store[_sub_pages(table, cache_page // page_size)[:used]] = torch.stack([high, low], 2)[:used]


def update_summaries(store: Tensor, key: Tensor, slots: Tensor, page_size: int) -> None:
    """Take in one new key a request, [B, Hkv, D], written at the cache's token slots int64 [B] (page·page size + row).

    A key at the start of a page resets the page's summary. Negative slots (padding) are ignored. No synchronisation.
    """
    page = torch.where(slots >= 0, slots // page_size, 0)
    fresh = (slots % page_size == 0)[:, None, None]
    old = store[page]
    high = torch.where(fresh, key, torch.maximum(old[:, :, 0], key))
    low = torch.where(fresh, key, torch.minimum(old[:, :, 1], key))
    new = torch.where((slots >= 0)[:, None, None, None], torch.stack([high, low], 2), old)
    store[page] = new


def page_bounds(q: Tensor, store: Tensor, table: Tensor, share_pages: bool) -> Tensor:
    """Upper bounds [B, H, N] for q [B, Hq, D] and physical sub-pages table [B, N]; H is Hkv when shared, else Hq."""
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    grouped = q.reshape(q.shape[0], store.shape[1], -1, q.shape[2]).to(dtype)
    summary = store[table.long()].to(dtype)
    high, low = summary[..., 0, :], summary[..., 1, :]
    bounds = torch.einsum("bhgd,bnhd->bhgn", grouped.clamp(min=0), high)
    bounds = bounds + torch.einsum("bhgd,bnhd->bhgn", grouped.clamp(max=0), low)
    return bounds.sum(2) if share_pages else bounds.flatten(1, 2)


def select(
    q: Tensor,
    store: Tensor,
    block_table: Tensor,
    seq_lens: Tensor,
    budgets: Tensor,
    *,
    page_size: int,
    cache_page: int,
    max_budget: int,
    share_pages: bool = True,
) -> PageLists:
    """Pages to read for one new query a request.

    q [B, Hq, D]; block_table int32 [B, max_pages]; seq_lens int32 [B], the current token included; budgets int32 [B],
    tokens; max_budget, tokens, a bound on the budgets known on the host, sets the width W = max_budget ÷ page_size + 1.
    """
    table = _sub_pages(block_table.long(), cache_page // page_size)
    current = (seq_lens.long() - 1) // page_size
    page = torch.arange(table.shape[1], device=q.device)
    used = page <= current[:, None]
    bounds = page_bounds(q, store, torch.where(used, table, table[:, :1]), share_pages)
    bounds = bounds.masked_fill(~(page < current[:, None])[:, None], -float("inf"))
    heads = bounds.shape[1]
    mask = top_mask(bounds, (budgets.long() // page_size)[:, None].expand(-1, heads))
    mask = (mask & (page < current[:, None])[:, None]) | (page == current[:, None])[:, None]
    ids, counts = ascending_ids(mask, min(max_budget // page_size + 1, table.shape[1]))
    pages = table[:, None].expand(-1, heads, -1).gather(2, ids.long()).to(torch.int32)
    tail = (seq_lens - current * page_size)[:, None]
    lengths = torch.where(seq_lens[:, None] > 0, (counts - 1) * page_size + tail, 0).to(torch.int32)
    return PageLists(pages, torch.where(seq_lens[:, None] > 0, counts, 0), lengths, page_size)


def _sub_pages(table: Tensor, ratio: int) -> Tensor:
    """Cache pages [..., n] to their sub-pages [..., n·ratio]."""
    return (table[..., None] * ratio + torch.arange(ratio, device=table.device)).flatten(-2)
