"""Quest's step in one CUDA launch: against the definition and float64, ragged, in graphs, with new keys."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from sparsekernels import fused_decode  # noqa: E402
from sparsekernels.bench import parity  # noqa: E402
from sparsekernels.cuda.quest_step import can_run, find_step  # noqa: E402
from sparsekernels.kvcache import KeyValues  # noqa: E402
from sparsekernels.methods import quest  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not can_run(0), reason="needs a Hopper GPU and NVRTC"),
]
ODD = [1, 15, 16, 17, 63, 64, 65, 127, 128, 129, 1000]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("heads", [(28, 4, 128), (7, 1, 128), (8, 8, 128), (14, 2, 64), (16, 2, 64)])
def test_the_step_is_the_definition(heads: parity.Heads, dtype: torch.dtype, ties: bool) -> None:
    parity.check_quest_step(
        lengths=[2500, 17, 1, 640, 1000], budgets=[320, 320, 16, 640, 1024], cache_page=16, heads=heads, device="cuda",
        dtype=dtype, ties=ties,
    )  # fmt: skip


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 8, 11, 16, 17, 32])
@pytest.mark.parametrize("cache_page", [16, 32, 64])
def test_every_size_of_cluster(batch: int, cache_page: int) -> None:
    lengths = [ODD[i % len(ODD)] + 100 * (i // len(ODD)) for i in range(batch)]
    parity.check_quest_step(
        lengths=lengths, budgets=[16 * (1 + i % 9) for i in range(batch)], cache_page=cache_page, heads=(12, 4, 128),
        device="cuda", dtype=torch.bfloat16, ties=True,
    )  # fmt: skip


@pytest.mark.parametrize("length", [33_000, 131_072, 200_000])
def test_long_sequences(length: int) -> None:
    parity.check_quest_step(
        lengths=[length, length // 2], budgets=[4096, 1024], cache_page=16, heads=(14, 2, 128), device="cuda",
        dtype=torch.bfloat16, ties=True,
    )  # fmt: skip


def _inputs(lengths: list[int]) -> tuple[KeyValues, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A cache whose summaries hold the keys before each sequence's last one."""
    kv, _ = parity.random_cache([max(n, 1) for n in lengths], (8, 2, 128), 16, "cuda", torch.bfloat16)
    store = quest.new_store(kv.keys.shape[0], 16, 16, kv.keys)
    for row, length in zip(kv.block_table, lengths, strict=True):
        if length > 1:
            quest.build_summaries(store, kv.keys, row, length - 1, 16)
    q = torch.randn(len(lengths), 8, 128, device="cuda", dtype=torch.bfloat16)
    return kv, torch.tensor(lengths, dtype=torch.int32, device="cuda"), store, q


def test_new_keys_are_taken_in_and_rows_without_tokens_stay() -> None:
    lengths = [1000, 0, 333, 65, 1, 1024]
    kv, seq_lens, store, q = _inputs(lengths)
    last = (seq_lens.long() - 1).clamp(min=0)
    page = kv.block_table.gather(1, (last // 16)[:, None].long())[:, 0].long()
    slots = torch.where(seq_lens > 0, page * 16 + last % 16, -1)
    key = kv.keys[page, last % 16].contiguous()
    budgets = torch.full_like(seq_lens, 128)
    expected_store = store.clone()
    quest.update_summaries(expected_store, key, slots, 16)
    options = {"page_size": 16, "max_budget": 128}
    assert find_step(q, kv, store, seq_lens, budgets, new_keys=(key, slots), skip_empty=True, **options) is not None
    out = torch.full_like(q, 7.0)
    fused_decode.attend_best_pages(
        q, kv, store, seq_lens, budgets, new_keys=(key, slots), out=out, skip_empty=True, **options
    )
    assert torch.equal(store.nan_to_num(), expected_store.nan_to_num())
    assert torch.equal(out[1], torch.full_like(out[1], 7.0))
    lists = fused_decode.select(q, store, kv.block_table, seq_lens, budgets, cache_page=16, **options)
    plain = fused_decode.attend_pages(q, kv, lists, executor="triton")
    assert torch.allclose(out[[0, 2, 3, 4, 5]], plain[[0, 2, 3, 4, 5]], atol=2e-2)
    zeroed = fused_decode.attend_best_pages(q, kv, store, seq_lens, budgets, **options)
    assert torch.equal(zeroed[1], torch.zeros_like(zeroed[1]))


def test_pages_of_a_head_in_one_piece_and_queries_of_a_fused_projection() -> None:
    kv, seq_lens, store, q = _inputs([1000, 700, 90])
    budgets = torch.full_like(seq_lens, 256)
    options = {"page_size": 16, "max_budget": 256}
    expected = fused_decode.attend_best_pages(q, kv, store, seq_lens, budgets, **options)
    both = torch.stack([kv.keys, kv.values], 1).transpose(2, 3).contiguous()
    pieces = KeyValues(both[:, 0].transpose(1, 2), both[:, 1].transpose(1, 2), kv.block_table)
    wide = torch.randn(3, 12, 128, device="cuda", dtype=torch.bfloat16)
    wide[:, :8] = q
    assert find_step(wide[:, :8], pieces, store, seq_lens, budgets, **options) is not None
    found = fused_decode.attend_best_pages(wide[:, :8], pieces, store, seq_lens, budgets, **options)
    assert torch.equal(found, expected)


def test_what_it_does_not_serve_goes_to_triton() -> None:
    kv, seq_lens, store, q = _inputs([100, 50])
    budgets = torch.full_like(seq_lens, 32)
    assert find_step(q, kv, store, seq_lens, budgets, page_size=8, max_budget=32) is None
    wide = torch.randn(2, 32, 128, device="cuda", dtype=torch.bfloat16)
    assert find_step(wide, kv, store, seq_lens, budgets, page_size=16, max_budget=32) is None
    options = {"page_size": 16, "max_budget": 32, "share_pages": False}
    lists = fused_decode.select(q, store, kv.block_table, seq_lens, budgets, cache_page=16, **options)
    expected = fused_decode.attend_pages(q, kv, lists, executor="triton")
    assert torch.equal(fused_decode.attend_best_pages(q, kv, store, seq_lens, budgets, **options), expected)
