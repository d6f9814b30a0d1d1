"""Parity of each fast path with the definition, on any device: run by the tests, and before anything is timed.

Every check raises AssertionError, or returns quietly.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparsekernels import decode, fused_decode, prefill
from sparsekernels.bench.inputs import clustered_inputs, paged, random_inputs
from sparsekernels.cuda.quest_step import find_step
from sparsekernels.kvcache import KeyValues, contiguous
from sparsekernels.methods import quest, snapkv
from sparsekernels.methods.quest import PageLists
from sparsekernels.parameters import SnapKV
from sparsekernels.prefill import PrefillMethod
from sparsekernels.testing import assert_parity, masked_attention, plain_attention

Heads = tuple[int, int, int]


def check_prefill(
    method: PrefillMethod,
    executor: str,
    *,
    num_queries: int,
    length: int,
    heads: Heads,
    device: str,
    dtype: torch.dtype,
    page: int | None = None,
    clustered: bool = True,
    row_block: int | None = 128,
) -> None:
    """sparse_prefill against float64 attention under the reference selection's mask; twice, bit for bit the same.

    `page` None: contiguous keys, else a cache of such pages with NaN where nothing was written.
    """
    x = (clustered_inputs if clustered else random_inputs)(length, heads, length, device)
    q, k, v = (y.to(dtype) for y in (x.q[length - num_queries :], x.k, x.v))
    kv = contiguous(k, v) if page is None else paged(k, v, page)
    selection = prefill.select(q, k, method, row_block=row_block)
    selection.validate([length])
    mask = selection.dense_mask(num_queries, length)
    runs = [
        prefill.sparse_prefill(
            q, kv, method, length=length, executor=executor, row_block=row_block, out=torch.full_like(q, float("nan"))
        )
        for _ in range(2)
    ]
    assert_parity(runs[0].out, masked_attention(q, k, v, mask), plain_attention(q, k, v, mask))
    assert torch.equal(runs[0].out, runs[1].out), "two runs differ"
    got, expected = runs[0].computed_pairs.tolist(), selection.computed_pairs().tolist()
    assert got == expected, f"pairs {got} instead of {expected}"


def random_cache(
    lengths: list[int], heads: Heads, page: int, device: str, dtype: torch.dtype, seed: int = 0
) -> tuple[KeyValues, Tensor]:
    """A cache with sequences of the given lengths in scattered pages, NaN elsewhere, and int32 lengths [B]."""
    g = torch.Generator().manual_seed(seed)
    most = -(-max(lengths) // page)
    order = torch.randperm(len(lengths) * most, generator=g).view(len(lengths), most)
    cache = torch.full((order.numel(), 2, page, heads[1], heads[2]), float("nan"), dtype=dtype)
    for row, length in zip(order, lengths, strict=True):
        token = torch.arange(length)
        cache[row[token // page], :, token % page] = torch.randn(length, 2, *heads[1:], generator=g).to(dtype)
    cache = cache.to(device)
    table = order.to(device=device, dtype=torch.int32)
    return KeyValues(cache[:, 0], cache[:, 1], table), torch.tensor(lengths, dtype=torch.int32, device=device)


def check_quest(
    executor: str, *, lengths: list[int], budgets: list[int], page_size: int, cache_page: int, share_pages: bool,
    heads: Heads, device: str, dtype: torch.dtype,
) -> None:  # fmt: skip
    """Fused selection against the definition's lists, and attention over them against float64."""
    kv, seq_lens = random_cache(lengths, heads, cache_page, device, dtype)
    q = torch.randn(len(lengths), heads[0], heads[2], generator=torch.Generator().manual_seed(1)).to(device, dtype)
    store = quest.new_store(kv.keys.shape[0], cache_page, page_size, kv.keys)
    for row, length in zip(kv.block_table, lengths, strict=True):
        quest.build_summaries(store, kv.keys, row, length, page_size)
    tokens = torch.tensor(budgets, dtype=torch.int32, device=device)
    options = dict(page_size=page_size, cache_page=cache_page, max_budget=max(budgets), share_pages=share_pages)
    expected = quest.select(q, store, kv.block_table, seq_lens, tokens, **options)  # type: ignore[arg-type]
    lists = fused_decode.select(q, store, kv.block_table, seq_lens, tokens, **options)  # type: ignore[arg-type]
    assert torch.equal(lists.counts, expected.counts), "page counts differ"
    assert torch.equal(lists.lengths, expected.lengths), "token counts differ"
    width = lists.pages.shape[2]
    used = torch.arange(width, device=device) < lists.counts[..., None]
    assert torch.equal(lists.pages.where(used, 0), expected.pages[..., :width].where(used, 0)), "pages differ"
    run = [decode.attend_pages(q, kv, lists, executor=executor) for _ in range(2)]
    inside = torch.arange(page_size, device=device)
    slots = (lists.pages.long()[..., None] * page_size + inside).flatten(-2)
    _assert_decode(run[0], q, kv, slots, lists.lengths)
    assert torch.equal(run[0], run[1]), "two runs differ"


def check_quest_step(
    *, lengths: list[int], budgets: list[int], cache_page: int, heads: Heads, device: str, dtype: torch.dtype,
    ties: bool = False,
) -> None:  # fmt: skip
    """The step in one launch: the definition's lists, attention over them against float64, the same bits twice.

    With `ties` the keys and queries are small whole numbers, so that bounds are exact in any order and often equal.
    """
    kv, seq_lens = random_cache(lengths, heads, cache_page, device, dtype)
    q = torch.randn(len(lengths), heads[0], heads[2], generator=torch.Generator().manual_seed(1)).to(device, dtype)
    if ties:
        q = q.round()
        kv.keys.copy_(kv.keys.round())
    store = quest.new_store(kv.keys.shape[0], cache_page, 16, kv.keys)
    for row, length in zip(kv.block_table, lengths, strict=True):
        quest.build_summaries(store, kv.keys, row, length, 16)
    tokens = torch.tensor(budgets, dtype=torch.int32, device=device)
    lists = quest.select(
        q, store, kv.block_table, seq_lens, tokens, page_size=16, cache_page=cache_page, max_budget=max(budgets)
    )
    step = find_step(q, kv, store, seq_lens, tokens, page_size=16, max_budget=max(budgets))
    assert step is not None, "no step in one launch here"
    found = PageLists(torch.empty_like(lists.pages), lists.counts, torch.empty_like(lists.lengths), 16)
    run = [torch.full_like(q, float("nan")) for _ in range(2)]
    for out in run:
        step(q, kv, store, seq_lens, tokens, out, scale=heads[2] ** -0.5, lists=found)
    assert torch.equal(found.lengths, lists.lengths), "token counts differ"
    used = torch.arange(lists.pages.shape[2], device=device) < lists.counts[..., None]
    assert torch.equal(found.pages.where(used, 0), lists.pages.where(used, 0)), "pages differ"
    slots = (lists.pages.long()[..., None] * 16 + torch.arange(16, device=device)).flatten(-2)
    _assert_decode(run[0], q, kv, slots, lists.lengths)
    assert torch.equal(run[0], run[1]), "two runs differ"


def check_kept(
    executor: str, *, lengths: list[int], generated: int, capacity: int, cache_page: int, heads: Heads, device: str,
    dtype: torch.dtype,
) -> None:  # fmt: skip
    """Attention over kept tokens and generated ones against float64."""
    kv, seq_lens = random_cache(lengths, heads, cache_page, device, dtype, seed=2)
    g = torch.Generator().manual_seed(3)
    q = torch.randn(len(lengths), heads[0], heads[2], generator=g).to(device, dtype)
    method = SnapKV(token_capacity=capacity, sink_size=2, local_size=4)
    kept = [snapkv.keep(torch.rand(heads[1], max(1, n - generated), generator=g).to(device), method) for n in lengths]
    slots = decode.kept_slots(kept, kv.block_table, cache_page, capacity)
    run = [decode.attend_kept(q, kv, slots, seq_lens, max_generated=generated, executor=executor) for _ in range(2)]
    tokens, counts = decode.with_generated(slots, kv.block_table, cache_page, seq_lens, generated)
    _assert_decode(run[0], q, kv, tokens, counts)
    assert torch.equal(run[0], run[1]), "two runs differ"


def check_kept_at(*, lengths: list[int], generated: int, heads: Heads, device: str, dtype: torch.dtype) -> None:
    """Kept tokens named by address equal those of a table, and rows that name none stay as they are."""
    kv, seq_lens = random_cache(lengths, heads, 16, device, dtype, seed=4)
    g = torch.Generator().manual_seed(5)
    q = torch.randn(len(lengths), heads[0], heads[2], generator=g).to(device, dtype)
    slots, counts, kept = [], [], []
    for row, length in enumerate(lengths):
        method = SnapKV(token_capacity=10 + 7 * row, sink_size=2, local_size=4)
        tokens = snapkv.keep(torch.rand(heads[1], length - generated, generator=g).to(device), method)
        kept.append(tokens)
        one = decode.kept_slots([tokens], kv.block_table[row : row + 1], 16, 10 + 7 * row)
        slots.append(one.slots[0].contiguous())
        counts.append(one.counts[0].contiguous())
    table = decode.kept_slots(kept, kv.block_table, 16, max(s.shape[1] for s in slots))
    expected = decode.attend_kept(q, kv, table, seq_lens, max_generated=generated, executor="triton")
    inactive = 1 if len(lengths) > 1 else -1
    named = [
        [0 if row == inactive else number for row, number in enumerate(numbers)]
        for numbers in (
            [s.data_ptr() for s in slots],
            [c.data_ptr() for c in counts],
            [s.shape[1] for s in slots],
            table.prompt_lengths.tolist(),
            lengths,
        )
    ]
    at = [torch.tensor(numbers, dtype=torch.int64, device=device) for numbers in named]
    out = torch.full_like(q, 7.0)
    addresses = decode.KeptAddresses(at[0], at[1], at[2], at[3].int())
    fused_decode.attend_kept_at(
        q, kv, addresses, at[4].int(), max_tokens=table.slots.shape[2] + generated, out=out, skip_empty=True
    )
    for row in range(len(lengths)):
        wanted = torch.full_like(q[row], 7.0) if row == inactive else expected[row]
        assert torch.equal(out[row], wanted), f"row {row} differs"


def _assert_decode(out: Tensor, q: Tensor, kv: KeyValues, slots: Tensor, counts: Tensor) -> None:
    group = q.shape[1] // kv.num_kv_heads
    per_list = q.shape[1] // slots.shape[1]
    exact, plain = torch.zeros(q.shape, dtype=torch.float64, device=q.device), torch.zeros_like(q)
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            slot = slots[b, h // per_list, : int(counts[b, h // per_list])]
            page, row = slot // kv.page_size, slot % kv.page_size
            k, v = kv.keys[page, row, h // group][:, None], kv.values[page, row, h // group][:, None]
            one, everything = q[b : b + 1, h : h + 1], torch.ones(1, 1, len(slot), dtype=torch.bool, device=q.device)
            exact[b : b + 1, h : h + 1] = masked_attention(one, k, v, everything)
            plain[b : b + 1, h : h + 1] = plain_attention(one, k, v, everything)
    assert_parity(out, exact, plain)
