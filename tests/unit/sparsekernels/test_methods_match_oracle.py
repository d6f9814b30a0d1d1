"""Every method's selection equals an independent dense-mask oracle, on random and on clustered inputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sparsekernels.methods import block_sparse, flexprefill, quest, snapkv, vertical_slash
from sparsekernels.methods.vertical_slash import Coverage
from sparsekernels.parameters import AdaSnapKV, BlockSparse, FlexPrefill, SnapKV, VerticalSlash
from torch import Tensor

from tests.support import selection_oracle as oracle

torch.set_num_threads(1)
HEADS, KV_HEADS, D = 4, 2, 16
SHAPES = [(1, 1), (1, 70), (15, 15), (16, 16), (17, 65), (63, 63), (64, 64), (65, 65), (127, 300), (200, 200)]


def inputs(rows: int, length: int, kind: str, seed: int = 0) -> tuple[Tensor, Tensor]:
    """q [rows, Hq, D] and k [length, Hkv, D], float64; clustered: popular keys, and keys that answer by distance."""
    g = torch.Generator().manual_seed(seed)
    q = torch.randn(rows, HEADS, D, generator=g, dtype=torch.float64)
    k = torch.randn(length, KV_HEADS, D, generator=g, dtype=torch.float64)
    if kind == "clustered":
        angle = torch.arange(length, dtype=torch.float64)[:, None] * torch.tensor([0.9, 0.31, 0.07])
        wave = torch.cat([angle.cos(), angle.sin()], 1)
        k[:, :, :6] = 3 * wave[:, None]
        q[:, :, :6] = 3 * wave[length - rows :, None]
        k[length // 3 : length // 3 + 7, :, 6] += 8
        q[:, :, 6] = 3
    return q, k


def same(mask: Tensor, expected: np.ndarray) -> bool:
    return bool((mask.numpy() == expected).all())


@pytest.mark.parametrize("kind", ["random", "clustered"])
@pytest.mark.parametrize(("rows", "length"), SHAPES)
@pytest.mark.parametrize("row_block", [64, 128])
def test_vertical_slash_reads_what_the_formulas_ask_for(rows: int, length: int, row_block: int, kind: str) -> None:
    q, k = inputs(rows, length, kind)
    method = VerticalSlash(vertical_size=12, slash_size=24, window=40, sink_size=3, local_size=9)
    columns, offsets = oracle.vertical_slash_pattern(
        q.numpy(), k.numpy(), window=40, verticals=12, slashes=24, sinks=3, local=9
    )
    selection = vertical_slash.select(q, k, method, row_block=row_block)
    selection.validate([length])
    assert same(selection.dense_mask(rows, length), oracle.pattern_mask(columns, offsets, rows, length, row_block))


@pytest.mark.parametrize("kind", ["random", "clustered"])
@pytest.mark.parametrize(("rows", "length"), [(1, 70), (65, 65), (130, 300)])
def test_tile_coverage_is_the_reference_implementations_merging(rows: int, length: int, kind: str) -> None:
    q, k = inputs(rows, length, kind, seed=3)
    method = VerticalSlash(vertical_size=12, slash_size=24, window=40, sink_size=3, local_size=9)
    columns, offsets = oracle.vertical_slash_pattern(
        q.numpy(), k.numpy(), window=40, verticals=12, slashes=24, sinks=3, local=9
    )
    tiles = vertical_slash.select(q, k, method, row_block=16, coverage=Coverage.TILES).dense_mask(rows, length)
    assert same(tiles, oracle.tile_mask(columns, offsets, rows, length, 16))
    union = vertical_slash.select(q, k, method, row_block=16).dense_mask(rows, length)
    assert bool((tiles | ~union).all()), "the tiles must contain the union"


def test_wider_row_blocks_read_everything_that_narrow_ones_do() -> None:
    q, k = inputs(200, 300, "clustered", seed=5)
    method = VerticalSlash(vertical_size=12, slash_size=24, window=40, sink_size=3, local_size=9)
    narrow = vertical_slash.select(q, k, method, row_block=64).dense_mask(200, 300)
    wide = vertical_slash.select(q, k, method, row_block=128).dense_mask(200, 300)
    assert bool((wide | ~narrow).all())
    assert int(wide.sum()) > int(narrow.sum())


@pytest.mark.parametrize("kind", ["random", "clustered"])
@pytest.mark.parametrize("alpha", [0.0, 0.4, 0.8, 1.0])
def test_flexprefill_sizes_follow_coverage(alpha: float, kind: str) -> None:
    rows, length = 90, 150
    q, k = inputs(rows, length, kind, seed=1)
    method = FlexPrefill(alpha=alpha, min_budget=12, window=30, sink_size=2, local_size=8)
    columns, offsets = oracle.flexprefill_pattern(
        q.numpy(), k.numpy(), window=30, alpha=alpha, min_budget=12, sinks=2, local=8
    )
    selection = flexprefill.select(q, k, method)
    selection.validate([length])
    assert same(selection.dense_mask(rows, length), oracle.pattern_mask(columns, offsets, rows, length, 64))


@pytest.mark.parametrize("kind", ["random", "clustered"])
@pytest.mark.parametrize(("rows", "length"), SHAPES)
@pytest.mark.parametrize(("block", "row_block"), [(16, 16), (16, 128), (32, 128), (64, 32)])
def test_block_sparse_reads_the_best_blocks(rows: int, length: int, block: int, row_block: int, kind: str) -> None:
    q, k = inputs(rows, length, kind, seed=2)
    top = max(1, row_block // block) + 4
    method = BlockSparse(top_blocks=top, block_size=block, row_block=row_block)
    expected = oracle.block_sparse_mask(
        q.numpy(), k.numpy(), top=top, block=block, row_block=row_block, sinks=1, local=1
    )
    selection = block_sparse.select(q, k, method)
    selection.validate([length])
    assert same(selection.dense_mask(rows, length), expected)


def test_block_sparse_ties_go_to_the_lower_block() -> None:
    q, k = torch.ones(96, 1, 4, dtype=torch.float64), torch.ones(96, 1, 4, dtype=torch.float64)
    selection = block_sparse.select(q, k, BlockSparse(top_blocks=4))
    assert selection.pages[5, 0].tolist() == [0, 1, 4, 5]


@pytest.mark.parametrize("kind", ["random", "clustered"])
@pytest.mark.parametrize("length", [30, 64, 150])
def test_snapkv_keeps_the_most_voted_tokens(length: int, kind: str) -> None:
    q, k = inputs(length, length, kind, seed=4)
    options = dict(window=20, sink_size=2, local_size=9, kernel_size=5, token_capacity=25)
    kept = snapkv.keep(snapkv.votes(q, k, SnapKV(**options)), SnapKV(**options))
    expected = oracle.snapkv_kept(q.numpy(), k.numpy(), window=20, kernel=5, capacity=25, sinks=2, local=9)
    for h in range(KV_HEADS):
        assert kept.tokens[h, : kept.counts[h]].tolist() == sorted(expected[h])


@pytest.mark.parametrize("kind", ["random", "clustered"])
@pytest.mark.parametrize(("length", "ratio"), [(30, 0.2), (150, 0.2), (150, 0.9), (150, 0.0)])
def test_ada_snapkv_shares_the_budget_between_heads(length: int, ratio: float, kind: str) -> None:
    q, k = inputs(length, length, kind, seed=6)
    method = AdaSnapKV(window=20, sink_size=2, local_size=9, kernel_size=5, token_capacity=25, min_ratio=ratio)
    kept = snapkv.keep(snapkv.votes(q, k, method), method)
    expected = oracle.ada_snapkv_kept(
        q.numpy(), k.numpy(), window=20, kernel=5, capacity=25, sinks=2, local=9, ratio=ratio
    )
    assert int(kept.counts.sum()) == min(25, length) * KV_HEADS
    for h in range(KV_HEADS):
        assert kept.tokens[h, : kept.counts[h]].tolist() == sorted(expected[h])


def test_ada_snapkv_over_ranks_equals_one_rank() -> None:
    votes = torch.rand(4, 90, generator=torch.Generator().manual_seed(0))
    method = AdaSnapKV(window=20, sink_size=2, local_size=9, kernel_size=5, token_capacity=25)
    whole = snapkv.keep(votes, method)
    for first in (0, 2):
        part = snapkv.keep(votes[first : first + 2], method, gather=lambda _, first=first: (votes, first))
        assert torch.equal(part.counts, whole.counts[first : first + 2])
        assert torch.equal(part.tokens, whole.tokens[first : first + 2])
    alone = AdaSnapKV(window=20, sink_size=2, local_size=9, kernel_size=5, token_capacity=25, pool_heads="rank")
    part = snapkv.keep(votes[:2], alone, gather=lambda _: pytest.fail("a rank of its own gathers nothing"))
    assert int(part.counts.sum()) == 50


def test_ties_between_votes_go_to_the_lower_token_and_head() -> None:
    method = SnapKV(window=20, sink_size=1, local_size=2, kernel_size=1, token_capacity=6)
    kept = snapkv.keep(torch.ones(2, 20), method)
    assert kept.tokens[0].tolist() == [0, 1, 2, 3, 18, 19]
    shared = AdaSnapKV(window=20, sink_size=1, local_size=2, kernel_size=1, token_capacity=6, min_ratio=0.0)
    kept = snapkv.keep(torch.ones(2, 20), shared)
    assert kept.counts.tolist() == [9, 3]


@pytest.mark.parametrize("kind", ["random", "clustered"])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("length", [1, 7, 8, 9, 63, 64, 65, 130])
def test_quest_reads_the_pages_with_the_highest_bounds(length: int, shared: bool, kind: str) -> None:
    _, k = inputs(1, length, kind, seed=7)
    q = torch.randn(1, HEADS, D, dtype=torch.float64, generator=torch.Generator().manual_seed(length))
    num_pages = -(-length // 16)
    cache = torch.full((num_pages + 1, 16, KV_HEADS, D), float("nan"), dtype=torch.float64)
    cache[1:].flatten(0, 1)[:length] = k
    table = torch.arange(1, num_pages + 1, dtype=torch.int32)[None]
    store = quest.new_store(num_pages + 1, 16, 8, cache)
    quest.build_summaries(store, cache, table[0], length, 8)
    lists = quest.select(
        q, store, table, torch.tensor([length]), torch.tensor([40]),
        page_size=8, cache_page=16, max_budget=40, share_pages=shared,
    )  # fmt: skip
    expected = oracle.quest_pages(q[0].numpy(), k.numpy(), page=8, budget=40, shared=shared)
    for h, pages in enumerate(expected):
        assert [int(p) - 2 for p in lists.pages[0, h, : lists.counts[0, h]]] == pages
        assert int(lists.lengths[0, h]) == (len(pages) - 1) * 8 + (length - 1) % 8 + 1


def test_quest_ties_go_to_the_lower_page() -> None:
    keys = torch.ones(6, 16, 1, 4)
    store = quest.new_store(6, 16, 16, keys)
    table = torch.arange(6, dtype=torch.int32)[None]
    quest.build_summaries(store, keys, table[0], 96, 16)
    lists = quest.select(
        torch.ones(1, 1, 4), store, table, torch.tensor([96]), torch.tensor([32]),
        page_size=16, cache_page=16, max_budget=32,
    )  # fmt: skip
    assert lists.pages[0, 0].tolist() == [0, 1, 5]
