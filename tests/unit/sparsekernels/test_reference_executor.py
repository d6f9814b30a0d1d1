"""The reference executor against exact attention: paging, poison, ragged batches, heads that share a list."""

from __future__ import annotations

import pytest
import torch
from sparsekernels import prefill
from sparsekernels.attend import reference
from sparsekernels.attend.merge import merge
from sparsekernels.bench import parity
from sparsekernels.executors import Executor, parse_executor
from sparsekernels.kvcache import KeyValues, contiguous
from sparsekernels.parameters import BlockSparse, FlexPrefill, VerticalSlash
from sparsekernels.selection import SelectionError, concatenate, full_selection
from sparsekernels.testing import assert_parity, masked_attention, plain_attention, relative_error

torch.set_num_threads(1)
METHODS = [
    VerticalSlash(vertical_size=12, slash_size=24, window=40, sink_size=3, local_size=9),
    FlexPrefill(alpha=0.5, min_budget=20, window=40, local_size=9),
    BlockSparse(top_blocks=5),
]


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
@pytest.mark.parametrize("length", [1, 15, 16, 17, 63, 64, 65, 129, 200])
@pytest.mark.parametrize("page", [None, 16])
def test_reference_is_masked_attention(method: prefill.PrefillMethod, length: int, page: int | None) -> None:
    parity.check_prefill(
        method, "reference", num_queries=length, length=length, heads=(4, 2, 64), device="cpu", dtype=torch.float32,
        page=page, row_block=64,
    )  # fmt: skip


@pytest.mark.parametrize("lengths", [[5], [1, 70], [33, 1, 64, 65, 17]])
def test_a_ragged_batch_equals_its_requests_one_by_one(lengths: list[int]) -> None:
    g = torch.Generator().manual_seed(0)
    q = torch.randn(sum(lengths), 4, 16, generator=g)
    kv, _ = parity.random_cache(lengths, (4, 2, 16), 16, "cpu", torch.float32)
    parts, outputs, start = [], [], 0
    for i, n in enumerate(lengths):
        own = KeyValues(kv.keys, kv.values, kv.block_table[i : i + 1])
        rows = q[start : start + n]
        parts.append(prefill.select(rows, own.gather(0, n)[0], BlockSparse(top_blocks=3)))
        outputs.append(reference.attend_prefill(rows, own, parts[-1]).out)
        start += n
    joined = reference.attend_prefill(q, kv, concatenate(parts, lengths))
    assert torch.equal(joined.out, torch.cat(outputs))
    assert not bool(joined.out.isnan().any())


def test_lists_of_kv_heads_serve_all_heads_of_their_group() -> None:
    q, k, v = (torch.randn(40, h, 16) for h in (4, 2, 2))
    shared = full_selection(40, 40, 2, page_size=8, row_block=16, device="cpu")
    own = full_selection(40, 40, 4, page_size=8, row_block=16, device="cpu")
    one = reference.attend_prefill(q, contiguous(k, v), shared)
    two = reference.attend_prefill(q, contiguous(k, v), own)
    assert torch.equal(one.out, two.out)
    assert torch.equal(one.lse, two.lse)


def test_log_sum_exp_is_that_of_the_visible_scores() -> None:
    q, k, v = (torch.randn(20, 1, 8, dtype=torch.float64) for _ in range(3))
    full = full_selection(20, 20, 1, page_size=4, row_block=8, device="cpu")
    result = reference.attend_prefill(q, contiguous(k, v), full)
    scores = (q[:, 0] @ k[:, 0].T) * 8**-0.5
    expected = scores.masked_fill(torch.ones(20, 20).triu(1).bool(), -float("inf")).logsumexp(1)
    assert torch.allclose(result.lse[:, 0], expected)


def test_unwritten_values_do_not_leak_through_zero_weights() -> None:
    kv, seq_lens = parity.random_cache([20], (2, 1, 8), 16, "cpu", torch.float32)
    slots = kv.block_table.long() * 16
    tokens = (slots[..., None] + torch.arange(16)).flatten(1)[:, None]
    out = reference.attend_decode(torch.randn(1, 2, 8), kv, tokens, seq_lens[:, None]).out
    assert not bool(out.isnan().any())


def test_a_request_that_reads_nothing_is_zero() -> None:
    kv, _ = parity.random_cache([20], (2, 1, 8), 16, "cpu", torch.float32)
    none = torch.zeros(1, 1, dtype=torch.int32)
    result = reference.attend_decode(torch.randn(1, 2, 8), kv, torch.zeros(1, 1, 4, dtype=torch.int64), none)
    assert result.out.abs().max() == 0
    assert bool(result.lse.isneginf().all())


def test_the_ruler_catches_errors() -> None:
    q, k, v = (torch.randn(60, 1, 16) for _ in range(3))
    mask = torch.ones(60, 1, 60, dtype=torch.bool).tril()
    mask = (torch.arange(60) <= torch.arange(60)[:, None])[:, None]
    exact, plain = masked_attention(q, k, v, mask), plain_attention(q, k, v, mask)
    assert_parity(plain, exact, plain)
    with pytest.raises(AssertionError, match="exceeds"):
        assert_parity(plain * 1.001, exact, plain)
    assert relative_error(plain.masked_fill(plain > 1, float("nan")), exact) == float("inf")


def test_executors_are_named_and_nothing_falls_back() -> None:
    assert parse_executor("flash") is Executor.FLASH
    with pytest.raises(ValueError, match="reference, flash, triton"):
        parse_executor("auto")
    x = torch.randn(4, 1, 8)
    with pytest.raises(ValueError, match="unknown executor 'fast'"):
        prefill.sparse_prefill(x, contiguous(x, x), METHODS[2], length=4, executor="fast")


def test_a_batch_of_requests_with_a_method_each() -> None:
    lengths, rows = [33, 1, 64, 130, 40], [33, 1, 20, 130, 0]
    q = torch.randn(sum(rows), 4, 16)
    kv, _ = parity.random_cache(lengths, (4, 2, 16), 16, "cpu", torch.float32)
    methods = [METHODS[i % 3] for i in range(5)]
    results = prefill.sparse_prefill_batch(q, kv, methods, query_lengths=rows, lengths=lengths, executor="reference")
    start = 0
    for i, result in enumerate(results):
        own = KeyValues(kv.keys, kv.values, kv.block_table[i : i + 1])
        alone = prefill.sparse_prefill(
            q[start : start + rows[i]], own, methods[i], length=lengths[i], executor="reference"
        )
        assert torch.equal(result.out, alone.out)
        assert torch.equal(result.computed_pairs, alone.computed_pairs)
        start += rows[i]
    with pytest.raises(ValueError, match="184 query rows for 5 methods"):
        prefill.sparse_prefill_batch(q, kv, methods, query_lengths=lengths, lengths=lengths, executor="reference")


def test_disjoint_parts_merge_to_the_whole() -> None:
    q, k, v = (torch.randn(50, h, 16, dtype=torch.float64) for h in (4, 2, 2))
    full = full_selection(50, 50, 4, page_size=10, row_block=10, device="cpu")
    whole = reference.attend_prefill(q, contiguous(k, v), full)
    causal = (torch.arange(50) <= torch.arange(50)[:, None])[:, None]
    parts = []
    for low, high in ((0, 7), (7, 30), (30, 50)):
        inside = causal & (torch.arange(50) >= low) & (torch.arange(50) < high)
        scores = torch.einsum("thd,shd->ths", q, k.repeat_interleave(2, 1)) / 4
        lse = scores.masked_fill(~inside, -float("inf")).logsumexp(-1)
        out = masked_attention(q, k, v, inside).masked_fill(lse.isneginf()[..., None], float("nan"))
        parts.append(reference.Attended(out, lse))
    merged = merge(parts)
    assert torch.allclose(merged.out, whole.out)
    assert torch.allclose(merged.lse, whole.lse)
    nothing = reference.Attended(torch.full_like(q, float("nan")), torch.full((50, 4), -float("inf")))
    empty = merge([nothing, nothing])
    assert empty.out.abs().max() == 0
    assert bool(empty.lse.isneginf().all())


@pytest.mark.parametrize("executor", list(Executor))
def test_rows_and_lengths_beyond_the_cache_are_refused_before_anything_runs(executor: Executor) -> None:
    q, k = torch.randn(20, 2, 16), torch.randn(10, 1, 16)
    everything = full_selection(20, 20, 2, page_size=16, row_block=16, device="cpu")
    for length, text in ((10, "20 query rows do not fit in a sequence of 10"), (30, "length is 30; .* hold 10 tokens")):
        with pytest.raises(SelectionError, match=text):
            prefill.sparse_prefill(q, contiguous(k, k), BlockSparse(top_blocks=5), length=length, executor=executor)
        with pytest.raises(SelectionError, match=text):
            prefill.attend_selection(q, contiguous(k, k), everything, length=length, executor=executor)
