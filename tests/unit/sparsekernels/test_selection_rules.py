"""The rules of a Selection: what it refuses, what it counts, and how it is joined and coarsened."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from sparsekernels.kvcache import split_cache
from sparsekernels.methods import block_sparse, vertical_slash
from sparsekernels.parameters import BlockSparse, VerticalSlash
from sparsekernels.selection import Selection, SelectionError, concatenate, full_selection, rows_of_sequence

torch.set_num_threads(1)


def small(pages: list[int], count: int | None = None) -> Selection:
    """One row block of 4 rows at positions 8 … 11, one head, pages of 4."""
    rows = rows_of_sequence(4, 12, 4)
    table = torch.tensor(pages, dtype=torch.int32)[None, None]
    return Selection(rows, 4, 4, table, torch.tensor([[len(pages) if count is None else count]], dtype=torch.int32))


def test_a_right_selection_passes() -> None:
    small([0, 2]).validate([12])
    small([2, 99], count=1).validate([12])


@pytest.mark.parametrize(
    ("pages", "count", "rule"),
    [
        ([2, 0], None, "ascending"),
        ([0, 0, 2], None, "repeat"),
        ([0, 1], None, "own rows"),
        ([-1, 2], None, "outside"),
        ([0, 3], None, "outside"),
        ([0, 2], 3, "width"),
        ([0, 2], 0, "0 pages"),
    ],
)
def test_a_broken_rule_is_named_with_its_place(pages: list[int], count: int | None, rule: str) -> None:
    with pytest.raises(SelectionError, match=rule) as error:
        small(pages, count).validate([12])
    assert "row block 0, head 0" in str(error.value)


def test_rows_beyond_their_sequence_are_refused() -> None:
    with pytest.raises(SelectionError, match="beyond its sequence"):
        small([0, 2]).validate([11])
    with pytest.raises(SelectionError, match="13 query rows"):
        rows_of_sequence(13, 12, 4)
    with pytest.raises(SelectionError, match="row_block is 0"):
        rows_of_sequence(4, 12, 0)


def test_tables_and_rows_that_do_not_fit_together_are_refused() -> None:
    good = full_selection(20, 20, 2, page_size=4, row_block=16, device="cpu")
    elsewhere = replace(good.rows, sequence=good.rows.sequence + 1)
    for bad, rule in (
        (replace(good, counts=good.counts[:, :1]), "are no lists of 2 row blocks"),
        (replace(good, pages=good.pages[:1], counts=good.counts[:1]), "are no lists of 2 row blocks"),
        (replace(good, rows=elsewhere), "row block 0 lies in none of 1 sequences"),
        (replace(good, row_block=8), "row block 0 has 16 rows of at most 8"),
    ):
        with pytest.raises(SelectionError, match=rule):
            bad.validate([20])


def test_an_empty_row_block_has_an_empty_list() -> None:
    rows = replace(rows_of_sequence(4, 12, 4), count=torch.tensor([0]))
    empty = replace(small([0, 2]), rows=rows)
    with pytest.raises(SelectionError, match="no query row"):
        empty.validate([12])
    replace(empty, counts=torch.zeros(1, 1, dtype=torch.int32)).validate([12])
    assert rows_of_sequence(0, 12, 4).count.numel() == 0


@pytest.mark.parametrize(("rows", "length"), [(1, 1), (5, 40), (64, 64), (63, 130), (129, 129)])
@pytest.mark.parametrize("row_block", [1, 16, 64])
def test_everything_selected_is_dense(rows: int, length: int, row_block: int) -> None:
    full = full_selection(rows, length, 2, page_size=16, row_block=row_block, device="cpu")
    full.validate([length])
    key = torch.arange(length)
    causal = key <= torch.arange(length - rows, length)[:, None]
    assert torch.equal(full.dense_mask(rows, length), causal[:, None].expand(-1, 2, -1))
    assert float(full.density()) == 1.0


def test_density_counts_the_masks_pairs() -> None:
    q, k = torch.randn(100, 4, 8), torch.randn(170, 2, 8)
    for selection in (
        block_sparse.select(q, k, BlockSparse(top_blocks=4)),
        vertical_slash.select(q, k, VerticalSlash(vertical_size=9, slash_size=12, local_size=5, window=30)),
    ):
        mask = selection.dense_mask(100, 170)
        causal = int((torch.arange(170) <= torch.arange(70, 170)[:, None]).sum())
        assert selection.computed_pairs().tolist() == mask.sum((0, 2)).tolist()
        assert float(selection.density()) == pytest.approx(int(mask.sum()) / (4 * causal))
        assert bool((selection.tile_pairs() >= selection.computed_pairs()).all())


@pytest.mark.parametrize("page", [2, 16, 32])
def test_coarser_pages_cover_the_same_pairs(page: int) -> None:
    q, k = torch.randn(100, 4, 8), torch.randn(170, 2, 8)
    fine = vertical_slash.select(q, k, VerticalSlash(vertical_size=9, slash_size=12, local_size=5, window=30))
    coarse = fine.coarsen(page)
    coarse.validate([170])
    mask, wide = fine.dense_mask(100, 170), coarse.dense_mask(100, 170)
    key = torch.arange(170) // page
    touched = torch.stack([fine.dense_mask(100, 170)[..., key == p].any(-1) for p in range(int(key[-1]) + 1)], -1)
    assert bool((wide | ~mask).all())
    assert bool((~wide | touched_by_block(touched, fine, key)).all())
    with pytest.raises(SelectionError, match="do not fit"):
        coarse.coarsen(page + 1)
    with pytest.raises(SelectionError, match="pages of 0"):
        coarse.coarsen(0)


def touched_by_block(touched: torch.Tensor, selection: Selection, key: torch.Tensor) -> torch.Tensor:
    """[T, H, pages] of single rows to [T, H, L] of whole row blocks."""
    out = touched.clone()
    for start, count in zip(selection.rows.query_start.tolist(), selection.rows.count.tolist(), strict=True):
        out[start : start + count] = touched[start : start + count].any(0)
    return out[..., key]


def test_joined_sequences_keep_their_own_rows() -> None:
    parts = [full_selection(n, n, 1, page_size=4, row_block=8, device="cpu") for n in (5, 1, 17)]
    joined = concatenate(parts, [5, 1, 17])
    joined.validate([5, 1, 17])
    assert joined.rows.sequence.tolist() == [0, 1, 2, 2, 2]
    assert joined.rows.query_start.tolist() == [0, 5, 6, 14, 22]
    assert int(joined.computed_pairs()[0]) == sum(n * (n + 1) // 2 for n in (5, 1, 17))
    with pytest.raises(SelectionError, match="cannot be joined"):
        concatenate([parts[0], full_selection(5, 5, 1, page_size=2, row_block=8, device="cpu")], [5, 5])


def test_a_dense_mask_has_a_cap() -> None:
    full = full_selection(1, 4, 1, page_size=4, row_block=8, device="cpu")
    with pytest.raises(SelectionError, match="is over"):
        full.dense_mask(1 << 15, 1 << 15)


def test_cache_layouts_of_vllm_become_the_same_views() -> None:
    keys, values = torch.randn(5, 16, 2, 8), torch.randn(5, 16, 2, 8)
    split = torch.stack([keys, values], 1)
    joined = torch.cat([keys, values], -1).transpose(1, 2).contiguous()
    for cache in (split, split.transpose(0, 1), joined):
        k, v = split_cache(cache, 8)
        assert torch.equal(k, keys)
        assert torch.equal(v, values)
    with pytest.raises(ValueError, match="no known cache layout"):
        split_cache(torch.zeros(5, 3, 16, 2, 8), 8)
