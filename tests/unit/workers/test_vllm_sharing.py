"""Which requests share a prefill, and how much of it."""

from __future__ import annotations

import pytest
from sparsekernels.parameters import AdaSnapKV, BlockSparse, MethodChoice, Quest, SnapKV, VerticalSlash

from workers.vllm_plugin.sharing import cache_salt, cacheable_tokens, hit_step, longest_hit

DENSE = MethodChoice()
VERTICAL = MethodChoice(prefill=VerticalSlash(vertical_size=64, slash_size=64, window=256))
BLOCKS = MethodChoice(prefill=BlockSparse(top_blocks=8, block_size=64, row_block=128))
QUEST = MethodChoice(decode=Quest(token_budget=64))
SNAP = MethodChoice(compress=SnapKV(token_capacity=200, window=32))
BOTH = MethodChoice(prefill=VERTICAL.prefill, compress=AdaSnapKV(token_capacity=200, window=512))


def salt(method: MethodChoice, prompt: tuple[int, ...] = (1, 2), group: str | None = "g", name: str = "r") -> str:
    return cache_salt(group, name, method, prompt)


def test_nobody_shares_without_a_group() -> None:
    assert salt(DENSE, group=None, name="a") != salt(DENSE, group=None, name="b")


def test_decode_methods_share_the_prefill_that_they_have_in_common() -> None:
    assert salt(DENSE) == salt(QUEST, (9,)) == salt(SNAP, name="other")
    with_quest = MethodChoice(prefill=VERTICAL.prefill, decode=QUEST.decode)
    assert salt(VERTICAL) == salt(with_quest, name="other") == salt(BOTH)


def test_a_sparse_prefill_belongs_to_its_prompt_and_its_parameters() -> None:
    wider = MethodChoice(prefill=VerticalSlash(vertical_size=65, slash_size=64, window=256))
    assert len({salt(DENSE), salt(VERTICAL), salt(VERTICAL, (1, 3)), salt(wider), salt(BLOCKS)}) == 5


@pytest.mark.parametrize(
    ("method", "longest", "step"),
    [(DENSE, None, 1), (QUEST, None, 1), (SNAP, 968, 1), (VERTICAL, 744, 128), (BLOCKS, 999, 128), (BOTH, 488, 128)],
)
def test_what_a_hit_may_hold(method: MethodChoice, longest: int | None, step: int) -> None:
    assert longest_hit(method, 1000) == longest
    assert hit_step(method) == step
    assert longest_hit(method, 10) in (None, 0, 9)


def test_rows_behind_the_prompt_are_left_only_by_dense_requests() -> None:
    assert cacheable_tokens(DENSE, 100, 140) == 140
    assert [cacheable_tokens(m, 100, 140) for m in (QUEST, SNAP, VERTICAL, BLOCKS)] == [100] * 4
    assert cacheable_tokens(QUEST, 100, 60) == 60
