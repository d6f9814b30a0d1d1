"""The Triton kernels, in Triton's CPU interpreter, against the definitions.

The interpreter must be chosen before Triton is first imported, so `test_triton_kernels` runs this file in a process
of its own.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("run by test_triton_kernels.py in a process with TRITON_INTERPRET=1", allow_module_level=True)

from sparsekernels import decode, fused_decode
from sparsekernels.attend import flash
from sparsekernels.bench import parity
from sparsekernels.index import pack, votes
from sparsekernels.index.estimate import estimate_sums
from sparsekernels.index.quest import select as fused_select
from sparsekernels.index.quest import update_summaries
from sparsekernels.kvcache import KeyValues, contiguous
from sparsekernels.methods import estimate, quest, snapkv
from sparsekernels.parameters import AdaSnapKV, BlockSparse, FlexPrefill, SnapKV, VerticalSlash
from sparsekernels.prefill import PrefillMethod, select, sparse_prefill
from sparsekernels.testing import assert_parity, masked_attention, plain_attention, relative_error
from sparsekernels.virtual import virtual_cache

from tests.support.foreign_methods import Stride

torch.set_num_threads(1)
VS = VerticalSlash(vertical_size=9, slash_size=14, window=40, sink_size=3, local_size=6)
FLEX = FlexPrefill(alpha=0.5, min_budget=14, window=40, local_size=6)
BLOCKS = BlockSparse(top_blocks=5)
WIDE = BlockSparse(top_blocks=11, row_block=128)


def check(method: PrefillMethod, rows: int, length: int, page: int | None, row_block: int, d: int = 32) -> None:
    parity.check_prefill(
        method, "triton", num_queries=rows, length=length, heads=(2, 1, d), device="cpu", dtype=torch.float32,
        page=page, row_block=row_block, clustered=d >= 64,
    )  # fmt: skip


@pytest.mark.parametrize("length", [1, 15, 17, 63, 64, 65, 129])
def test_vertical_slash_at_odd_lengths(length: int) -> None:
    check(VS, length, length, None, 64)


@pytest.mark.parametrize("length", [1, 16, 17, 65, 129])
def test_block_sparse_at_odd_lengths(length: int) -> None:
    check(BLOCKS, length, length, 16, 64)


@pytest.mark.parametrize(("method", "row_block"), [(VS, 128), (FLEX, 64), (FLEX, 128), (WIDE, 128)])
def test_a_late_chunk_over_a_scattered_cache(method: PrefillMethod, row_block: int) -> None:
    check(method, 90, 230, 16, row_block)


@pytest.mark.parametrize("row_block", [0, 8, 48])
def test_row_blocks_that_kernels_cannot_tile_are_refused(row_block: int) -> None:
    q, k = torch.randn(20, 2, 32), torch.randn(20, 1, 32)
    with pytest.raises(ValueError, match=f"row_block is {row_block}; the kernels need a power of two"):
        sparse_prefill(q, contiguous(k, k), VS, length=20, executor="triton", row_block=row_block)


@pytest.mark.parametrize("d", [64, 128, 256])
def test_head_sizes(d: int) -> None:
    check(VS, 40, 70, 16, 64, d)


def test_blocks_wider_than_the_caches_pages() -> None:
    check(BlockSparse(top_blocks=3, block_size=64, row_block=64), 100, 180, 16, 64)


def test_everything_selected_is_dense() -> None:
    q, k, v = torch.randn(100, 2, 32), torch.randn(100, 1, 32), torch.randn(100, 1, 32)
    causal = torch.ones(100, 100, dtype=torch.bool).tril()[:, None]
    exact, plain = masked_attention(q, k, v, causal), plain_attention(q, k, v, causal)
    for method in (VerticalSlash(vertical_size=100, slash_size=64), BlockSparse(top_blocks=100)):
        result = sparse_prefill(q, contiguous(k, v), method, length=100, executor="triton")
        assert float(result.density()) == 1.0
        assert_parity(result.out, exact, plain)


@pytest.mark.parametrize("method", [replace(VS, window=1), replace(FLEX, window=1), BLOCKS, WIDE])
def test_ties_are_broken_as_the_definition_does(method: PrefillMethod) -> None:
    """Keys of zero tie every score, and one row of the estimate leaves nothing to rounding: lower positions win."""
    g = torch.Generator().manual_seed(3)
    q, v = torch.randn(149, 2, 32, generator=g), torch.randn(149, 1, 32, generator=g)
    k = torch.zeros(149, 1, 32)
    mask = select(q, k, method, row_block=128).dense_mask(149, 149)
    found = sparse_prefill(q, contiguous(k, v), method, length=149, executor="triton", row_block=128)
    assert_parity(found.out, masked_attention(q, k, v, mask), plain_attention(q, k, v, mask))


@pytest.mark.parametrize("share", [True, False])
def test_quest_pages_that_tie_go_to_the_lower_page(share: bool) -> None:
    keys = torch.ones(6, 16, 1, 16)
    store = quest.new_store(6, 16, 16, keys)
    table = torch.tensor([[3, 1, 5, 0, 4, 2]], dtype=torch.int32)
    quest.build_summaries(store, keys, table[0], 90, 16)
    lists = fused_decode.select(
        torch.ones(1, 2, 16), store, table, torch.tensor([90]), torch.tensor([32]),
        page_size=16, cache_page=16, max_budget=48, share_pages=share,
    )  # fmt: skip
    assert lists.pages[0, :, :3].tolist() == [[3, 1, 2]] * lists.pages.shape[1]
    assert lists.lengths.unique().tolist() == [42]


def test_a_whole_quest_step_is_its_selection_and_attention() -> None:
    kv, seq_lens = parity.random_cache([1, 130, 90], (4, 2, 16), 16, "cpu", torch.float32)
    store = quest.new_store(kv.keys.shape[0], 16, 16, kv.keys)
    for row, n in zip(kv.block_table, [1, 130, 90], strict=True):
        quest.build_summaries(store, kv.keys, row, n - 1, 16) if n > 1 else None
    q, budgets = torch.randn(3, 4, 16), torch.tensor([16, 64, 32], dtype=torch.int32)
    key, slots = torch.randn(3, 2, 16), kv.block_table.gather(1, ((seq_lens - 1) // 16)[:, None].long())[:, 0] * 16
    slots = slots.long() + (seq_lens - 1) % 16
    options = {"page_size": 16, "max_budget": 64}
    out = fused_decode.attend_best_pages(q, kv, store, seq_lens, budgets, new_keys=(key, slots), **options)
    lists = fused_decode.select(q, store, kv.block_table, seq_lens, budgets, cache_page=16, **options)
    assert torch.equal(out, decode.attend_pages(q, kv, lists, executor="triton"))
    assert store.view(-1, 2, 2, 16)[slots // 16, :, 0].ge(key).all()


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 5])
def test_a_budget_over_the_length_is_dense_decode(batch: int) -> None:
    lengths = [1, 130, 16, 77, 33][:batch]
    kv, seq_lens = parity.random_cache(lengths, (4, 2, 16), 16, "cpu", torch.float32)
    store = quest.new_store(kv.keys.shape[0], 16, 16, kv.keys)
    for row, n in zip(kv.block_table, lengths, strict=True):
        quest.build_summaries(store, kv.keys, row, n, 16)
    q = torch.randn(batch, 4, 16)
    lists = fused_decode.select(
        q, store, kv.block_table, seq_lens, torch.full_like(seq_lens, 160), page_size=16, cache_page=16, max_budget=160
    )
    assert lists.lengths[:, 0].tolist() == lengths
    out = decode.attend_pages(q, kv, lists, executor="triton")
    for b, n in enumerate(lengths):
        one, (k, v), everything = q[b : b + 1], kv.gather(b, n), torch.ones(1, 1, n, dtype=torch.bool)
        exact, plain = masked_attention(one, k, v, everything), plain_attention(one, k, v, everything)
        assert_parity(out[b : b + 1], exact, plain)


@pytest.mark.parametrize(
    ("rows", "length", "window"), [(5, 5, 64), (150, 200, 37), (70, 260, 64), (64, 64, 64), (130, 210, 100)]
)
def test_estimated_sums_match_their_definition(rows: int, length: int, window: int) -> None:
    q, k = torch.randn(rows, 4, 32), torch.randn(length, 2, 32)
    sums = estimate_sums(q, virtual_cache(contiguous(k, k)), length, window, 32**-0.5, block=32)
    expected = estimate.window_probabilities(q, k, window)
    assert torch.allclose(sums.columns, estimate.column_sums(expected), atol=1e-5)
    assert torch.allclose(sums.diagonals, estimate.diagonal_sums(expected), atol=1e-5)


@pytest.mark.parametrize("method", [SnapKV(token_capacity=199, window=37), AdaSnapKV(token_capacity=199, window=64)])
@pytest.mark.parametrize("length", [40, 200, 260])
def test_votes_match_their_definition(method: SnapKV | AdaSnapKV, length: int) -> None:
    kv, _ = parity.random_cache([length], (4, 2, 32), 16, "cpu", torch.float32)
    q, (k, _) = torch.randn(min(64, length), 4, 32), kv.gather(0, length)
    found = votes.votes(q, virtual_cache(kv), length, method, 32**-0.5)
    assert torch.allclose(found, snapkv.votes(q, k, method), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("first", "starts"), [(0, [64, 32, 0]), (50, [46, 14, 0])])
def test_heads_are_packed_last_row_block_first_and_unpacked(first: int, starts: list[int]) -> None:
    wide = torch.randn(70, 5, 16)[:, 1:4]
    packed = pack.pack_heads(wide, 32, first)
    order = torch.cat([torch.arange(start, stop) for start, stop in zip(starts, [70, *starts], strict=False)])
    assert torch.equal(packed, wide.transpose(0, 1)[:, order])
    cuts = [0, *torch.tensor([70, *starts[:-1]]).sub(torch.tensor(starts)).cumsum(0).tolist()]
    expected = [*cuts[:-1], *(70 + c for c in cuts[:-1]), *(140 + c for c in cuts)]
    assert flash.row_starts(70, first + 70, 32, 3, torch.device("cpu")).tolist() == expected
    back = torch.zeros(70, 6, 16)
    pack.unpack_heads(packed, back[:, 2:5], 32, first)
    assert torch.equal(back[:, 2:5], wide)
    assert back[:, :2].abs().max() == 0


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize(("page", "cache_page"), [(8, 16), (16, 16), (16, 64)])
def test_quest_selects_and_attends(share: bool, page: int, cache_page: int) -> None:
    parity.check_quest(
        "triton", lengths=[100, 17, 1, 250, 64], budgets=[32, 32, 16, 64, 48], page_size=page, cache_page=cache_page,
        share_pages=share, heads=(4, 2, 32), device="cpu", dtype=torch.float32,
    )  # fmt: skip


def test_quest_ignores_padded_requests() -> None:
    kv, seq_lens = parity.random_cache([40, 30], (2, 1, 16), 16, "cpu", torch.float32)
    store = quest.new_store(kv.keys.shape[0], 16, 16, kv.keys)
    for row, n in zip(kv.block_table, (40, 30), strict=True):
        quest.build_summaries(store, kv.keys, row, n, 16)
    seq_lens[1] = 0
    budgets = torch.full((2,), 32, dtype=torch.int32)
    lists = fused_decode.select(
        torch.randn(2, 2, 16), store, kv.block_table, seq_lens, budgets, page_size=16, cache_page=16, max_budget=32
    )
    assert lists.counts.tolist() == [[3], [0]]
    assert lists.lengths.tolist() == [[40], [0]]


def test_a_selection_may_take_in_the_new_keys() -> None:
    kv, lengths = parity.random_cache([70, 33, 16], (4, 2, 16), 16, "cpu", torch.float32)
    apart, joined = (quest.new_store(kv.keys.shape[0], 16, 16, kv.keys) for _ in range(2))
    for store in (apart, joined):
        for row, length in zip(kv.block_table, lengths.tolist(), strict=True):
            quest.build_summaries(store, kv.keys, row, length - 1, 16)
    page = kv.block_table[torch.arange(3), (lengths - 1) // 16].long()
    key = kv.keys[page, (lengths - 1) % 16].contiguous()
    slots = (page * 16 + (lengths - 1) % 16).where(torch.tensor([True, False, True]), -1)
    q, budgets = torch.randn(3, 4, 16), torch.full((3,), 32, dtype=torch.int32)
    update_summaries(apart, key, slots, 16)
    options: dict[str, Any] = dict(page_size=16, cache_page=16, max_budget=32)
    expected = fused_select(q, apart, kv.block_table, lengths, budgets, **options)
    found = fused_select(q, joined, kv.block_table, lengths, budgets, **options, new_keys=(key, slots))
    assert torch.equal(joined, apart)
    assert torch.equal(found.lengths, expected.lengths)
    for row in range(3):
        count = int(expected.counts[row, 0])
        assert torch.equal(found.pages[row, :, :count], expected.pages[row, :, :count])


def test_summaries_kept_token_by_token_equal_those_built_at_once() -> None:
    kv, _ = parity.random_cache([45], (2, 2, 16), 16, "cpu", torch.float32)
    built = quest.new_store(kv.keys.shape[0], 16, 8, kv.keys)
    quest.build_summaries(built, kv.keys, kv.block_table[0], 45, 8)
    fused, plain = torch.full_like(built, float("nan")), torch.full_like(built, float("nan"))
    for t in range(45):
        slot = kv.block_table[0, t // 16 : t // 16 + 1].long() * 16 + t % 16
        key = kv.keys.flatten(0, 1)[slot]
        update_summaries(fused, key, slot, 8)
        quest.update_summaries(plain, key, slot, 8)
    update_summaries(fused, key, torch.tensor([-1]), 8)
    used = ~plain.isnan()
    assert torch.equal(fused.nan_to_num(), plain.nan_to_num())
    assert torch.equal(fused[used], built[used])
    assert int(used.sum()) == 6 * 2 * 2 * 16


@pytest.mark.parametrize("generated", [0, 1, 9])
def test_kept_tokens_and_generated_ones(generated: int) -> None:
    parity.check_kept(
        "triton", lengths=[40 + generated, 11 + generated, 170 + generated], generated=generated, capacity=30,
        cache_page=16, heads=(4, 2, 32), device="cpu", dtype=torch.float32,
    )  # fmt: skip


def test_kept_tokens_by_address() -> None:
    parity.check_kept_at(
        lengths=[45, 60, 33], generated=5, heads=(4, 2, 32), device="cpu", dtype=torch.float32,
    )  # fmt: skip


def test_a_cache_of_joined_keys_and_values() -> None:
    kv, _ = parity.random_cache([60, 33], (4, 2, 16), 16, "cpu", torch.float32)
    joined = torch.cat([kv.keys, kv.values], -1).transpose(1, 2).contiguous().transpose(1, 2)
    other = KeyValues(joined[..., :16], joined[..., 16:], kv.block_table)
    lists = quest.PageLists(kv.block_table[:, None, :2].expand(-1, 2, -1).contiguous(), *[
        torch.tensor([[2, 2], [2, 2]], dtype=torch.int32), torch.tensor([[30, 32], [17, 20]], dtype=torch.int32)
    ], 16)  # fmt: skip
    q = torch.randn(2, 4, 16)
    expected = decode.attend_pages(q, kv, lists, executor="reference")
    assert torch.allclose(decode.attend_pages(q, other, lists, executor="triton"), expected, atol=1e-5)


@pytest.mark.parametrize("block", [1, 8, 16, 64])
@pytest.mark.parametrize("per_query_head", [False, True])
@pytest.mark.parametrize("page", [None, 16])
def test_a_method_through_the_door(block: int, per_query_head: bool, page: int | None) -> None:
    method = Stride(step=3, block=block, per_query_head=per_query_head)
    x = parity.random_inputs(150, (4, 2, 32), 1, "cpu")
    q, k, v = x.q[60:].float(), x.k.float(), x.v.float()
    kv = contiguous(k, v) if page is None else parity.paged(k, v, page)
    found = sparse_prefill(q, kv, method, length=150, executor="triton")
    selection = select(q, k, method)
    exact = masked_attention(q, k, v, selection.dense_mask(90, 150))
    assert relative_error(found.out, exact) < 1e-5
    assert float(found.density()) == pytest.approx(float(selection.density()))
