"""The compiled kernels on a real GPU: parity at odd shapes, bit equality with dense, capture in a CUDA graph."""

from __future__ import annotations

from itertools import product

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)

from sparsekernels import decode, fused_decode
from sparsekernels.attend import flash
from sparsekernels.bench import command, parity
from sparsekernels.bench.inputs import clustered_inputs, random_inputs
from sparsekernels.index.estimate import estimate_sums
from sparsekernels.index.keep import keep_slots
from sparsekernels.kvcache import contiguous
from sparsekernels.methods import estimate, quest, snapkv
from sparsekernels.parameters import AdaSnapKV, BlockSparse, SnapKV, VerticalSlash
from sparsekernels.prefill import PrefillMethod, sparse_prefill
from sparsekernels.virtual import virtual_cache

from tests.support.foreign_methods import Stride

pytestmark = pytest.mark.gpu
CHECKS = command.parity_checks("all")
VS = VerticalSlash(vertical_size=40, slash_size=70, window=100)
BLOCKS = BlockSparse(top_blocks=12, row_block=128)


@pytest.mark.parametrize("check", [c for _, c in CHECKS], ids=[name for name, _ in CHECKS])
def test_parity_as_the_benchmark_checks_it(check: object) -> None:
    check()  # type: ignore[operator]


@pytest.mark.parametrize(("d", "dtype"), list(product([64, 128, 256], [torch.bfloat16, torch.float16])))
@pytest.mark.parametrize("method", [VS, BLOCKS], ids=lambda m: m.name)
@pytest.mark.parametrize("executor", ["flash", "triton"])
def test_head_sizes_and_dtypes(method: PrefillMethod, executor: str, d: int, dtype: torch.dtype) -> None:
    parity.check_prefill(
        method, executor, num_queries=200, length=513, heads=(6, 2, d), device="cuda", dtype=dtype, page=16
    )


@pytest.mark.parametrize("block", [16, 64])
@pytest.mark.parametrize("page", [None, 16, 32])
@pytest.mark.parametrize("executor", ["flash", "triton"])
def test_a_method_through_the_door(block: int, page: int | None, executor: str) -> None:
    parity.check_prefill(
        Stride(step=3, block=block, row_block=64, per_query_head=True), executor, num_queries=300, length=515,
        heads=(8, 2, 128), device="cuda", dtype=torch.bfloat16, page=page,
    )  # fmt: skip


@pytest.mark.parametrize("length", [15, 16, 63, 64, 65, 127, 128, 1000])
@pytest.mark.parametrize("method", [VS, BLOCKS], ids=lambda m: m.name)
@pytest.mark.parametrize("clustered", [True, False])
def test_odd_lengths(method: PrefillMethod, length: int, clustered: bool) -> None:
    parity.check_prefill(
        method, "flash", num_queries=length, length=length, heads=(8, 2, 128), device="cuda", dtype=torch.bfloat16,
        clustered=clustered, page=32,
    )  # fmt: skip


@pytest.mark.parametrize("length", [600, 8192, 32768, 131072])
@pytest.mark.parametrize("method", [SnapKV(token_capacity=512), AdaSnapKV(token_capacity=512)], ids=lambda m: m.name)
def test_kept_slots_are_those_of_the_definition(method: SnapKV | AdaSnapKV, length: int) -> None:
    g = torch.Generator(device="cuda").manual_seed(length)
    smoothed = torch.rand(4, length, generator=g, device="cuda").mul(5000).round() / 5000
    table = torch.randperm(-(-length // 16), generator=g, device="cuda").to(torch.int32)
    expected = snapkv.keep(smoothed, method)
    slots, counts = keep_slots(smoothed, method, table, 16)
    assert torch.equal(counts, expected.counts)
    for head, count in enumerate(counts.tolist()):
        tokens = expected.tokens[head, :count].long()
        assert torch.equal(slots[head, :count], (table[tokens // 16] * 16 + tokens % 16).int())


@pytest.mark.parametrize("length", [127, 1000, 1024])
def test_blocks_as_long_as_pages_read_no_unused_row(length: int) -> None:
    parity.check_prefill(
        BlockSparse(top_blocks=4, block_size=128, row_block=128), "flash", num_queries=length, length=length,
        heads=(8, 2, 128), device="cuda", dtype=torch.bfloat16, page=128,
    )  # fmt: skip


@pytest.mark.parametrize("length", [1, 129, 1000, 4096])
def test_everything_selected_is_dense_bit_for_bit(length: int) -> None:
    q, k, v = random_inputs(length, (8, 2, 128), 1)
    kv, dense = contiguous(k, v), torch.empty_like(q)
    flash.dense_prefill(q, virtual_cache(kv), length, 128**-0.5, dense)
    for method in (
        VerticalSlash(vertical_size=max(4, length), slash_size=64),
        VerticalSlash(vertical_size=4, slash_size=length + 64),
        BlockSparse(top_blocks=length + 12, row_block=128),
        BlockSparse(top_blocks=length + 12, row_block=128, block_size=128),
    ):
        result = sparse_prefill(q, kv, method, length=length, executor="flash")
        assert float(result.density()) == 1.0
        assert torch.equal(result.out, dense), method


def test_estimated_sums_are_right_and_repeatable() -> None:
    q, k, _ = clustered_inputs(5000, (8, 2, 128), 3)
    cache = virtual_cache(contiguous(k, k))
    first, second = (estimate_sums(q, cache, 5000, 256, 128**-0.5) for _ in range(2))
    assert torch.equal(first.both, second.both)
    expected = estimate.window_probabilities(q, k, 256)
    assert torch.allclose(first.columns, estimate.column_sums(expected), atol=1e-4)
    assert torch.allclose(first.diagonals, estimate.diagonal_sums(expected), atol=1e-4)


@pytest.mark.parametrize("whole", [False, True])
def test_quest_in_a_cuda_graph_follows_its_inputs(whole: bool) -> None:
    lengths = [1000, 333, 64]
    kv, seq_lens = parity.random_cache(lengths, (8, 2, 128), 16, "cuda", torch.bfloat16)
    store = quest.new_store(kv.keys.shape[0], 16, 16, kv.keys)
    for row, length in zip(kv.block_table, lengths, strict=True):
        quest.build_summaries(store, kv.keys, row, length, 16)
    budgets = torch.tensor([128, 64, 64], dtype=torch.int32, device="cuda")
    q = torch.randn(3, 8, 128, device="cuda", dtype=torch.bfloat16)

    def step() -> torch.Tensor:
        if whole:
            return fused_decode.attend_best_pages(q, kv, store, seq_lens, budgets, page_size=16, max_budget=128)
        lists = fused_decode.select(
            q, store, kv.block_table, seq_lens, budgets, page_size=16, cache_page=16, max_budget=128
        )
        return decode.attend_pages(q, kv, lists, executor="triton")

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    for seed in range(5):
        q.copy_(torch.randn(q.shape, generator=torch.Generator().manual_seed(seed)))
        seq_lens.sub_(seed)
        graph.replay()
        graph.replay()
        assert torch.equal(captured, step())


@pytest.mark.parametrize("length", [17, 640, 3000])
def test_a_budget_over_the_length_is_dense_decode_bit_for_bit_on_flash(length: int) -> None:
    kv, seq_lens = parity.random_cache([length, length - 3], (8, 2, 128), 16, "cuda", torch.bfloat16)
    store = quest.new_store(kv.keys.shape[0], 16, 16, kv.keys)
    for row, n in zip(kv.block_table, (length, length - 3), strict=True):
        quest.build_summaries(store, kv.keys, row, n, 16)
    q = torch.randn(2, 8, 128, device="cuda", dtype=torch.bfloat16)
    budget = -(-length // 16) * 16 + 16
    lists = fused_decode.select(
        q, store, kv.block_table, seq_lens, torch.full_like(seq_lens, budget), page_size=16, cache_page=16,
        max_budget=budget,
    )  # fmt: skip
    cache, out, dense = virtual_cache(kv), torch.empty_like(q), torch.empty_like(q)
    flash.attend_decode(
        q, cache, fused_decode.page_units(cache, lists), max_tokens=length, scale=128**-0.5, out=out, num_splits=1
    )
    flash.varlen(
        q, kv.keys, kv.values, cu_seqlens_q=torch.arange(3, dtype=torch.int32, device="cuda"), max_seqlen_q=1,
        seqused_k=seq_lens, max_seqlen_k=length, block_table=kv.block_table, causal=True, out=dense, num_splits=1,
    )  # fmt: skip
    assert torch.equal(out, dense)
