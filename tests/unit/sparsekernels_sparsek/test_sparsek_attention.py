"""Linear-memory attention and constant-memory decoding against the quadratic definition."""

from __future__ import annotations

import pytest
import torch
from sparsekernels.sparsek.attention import sparsek_attention
from sparsekernels.sparsek.definition import Gating, attention_definition
from sparsekernels.sparsek.pattern import Budget
from sparsekernels.sparsek.slots import SlotCache
from torch import Tensor

HEADS, KV_HEADS, LENGTH, WIDTH = 4, 2, 160, 8
gatings = pytest.mark.parametrize("gating", list(Gating))


def inputs(length: int = LENGTH, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    shapes = ((HEADS, length, WIDTH), (KV_HEADS, length, WIDTH), (KV_HEADS, length, WIDTH), (KV_HEADS, length))
    q, k, v, u = (torch.randn(s, generator=draw, dtype=torch.float64, requires_grad=True) for s in shapes)
    return q, k, v, u


@gatings
@pytest.mark.parametrize("sinks", [0, 3])
@pytest.mark.parametrize("kept", [0, 1, 6, 20, 200])
def test_forward_and_gradients_match_the_definition(gating: Gating, sinks: int, kept: int) -> None:
    budget = Budget(window=10, kept=kept, sinks=sinks)
    tensors = inputs()
    grad = torch.randn(HEADS, LENGTH, WIDTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    want = attention_definition(*tensors, budget, gating)
    found = sparsek_attention(*tensors, budget, gating, row_block=32)
    assert float((want - found).detach().abs().max()) < 1e-14
    expected = torch.autograd.grad(want, tensors, grad, allow_unused=True)
    for mine, theirs in zip(torch.autograd.grad(found, tensors, grad), expected, strict=True):
        assert float((mine - (torch.zeros_like(mine) if theirs is None else theirs)).abs().max()) < 2e-14


@pytest.mark.parametrize("gating", [Gating.KEYS_AND_VALUES, Gating.VALUES])
def test_gradcheck_of_the_whole_attention(gating: Gating) -> None:
    tensors = tuple(x[..., :14, :3] if x.dim() == 3 else x[:, :14] for x in inputs(14))
    budget = Budget(window=2, kept=4, sinks=1)
    assert torch.autograd.gradcheck(
        lambda q, k, v, u: sparsek_attention(q, k, v, u, budget, gating, row_block=8), tensors, atol=1e-6
    )


@gatings
def test_a_budget_that_covers_the_sequence_is_dense(gating: Gating) -> None:
    q, k, v, u = inputs()
    found = sparsek_attention(q, k, v, u, Budget(window=10, kept=LENGTH), gating)
    dense = torch.nn.functional.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True, enable_gqa=True)
    assert float((found - dense[0]).detach().abs().max()) < 1e-13


def test_row_block_does_not_change_the_result() -> None:
    tensors, budget = inputs(), Budget(window=10, kept=12)
    one, two = (sparsek_attention(*tensors, budget, Gating.KEYS_AND_VALUES, row_block=size) for size in (16, 128))
    assert float((one - two).detach().abs().max()) < 1e-13


def test_only_scores_that_matter_get_a_gradient_and_rows_sum_to_zero() -> None:
    q, k, v, u = inputs()
    out = sparsek_attention(q, k, v, u, Budget(window=10, kept=12), Gating.STRAIGHT_THROUGH)
    (grad,) = torch.autograd.grad(out.square().sum(), u)
    assert float(grad.abs().max()) > 1e-3
    assert float(grad.sum(-1).abs().max()) < 1e-10
    assert not bool(grad[:, LENGTH - 10 :].any())


def test_scores_in_half_precision_are_refused() -> None:
    q, k, v, u = inputs()
    with pytest.raises(TypeError, match="bfloat16"):
        sparsek_attention(q, k, v, u.bfloat16(), Budget(window=10, kept=12), Gating.VALUES)


@gatings
@pytest.mark.parametrize("sinks", [0, 4])
def test_constant_memory_decode_matches_masked_attention(gating: Gating, sinks: int) -> None:
    budget = Budget(window=8, kept=20, sinks=sinks)
    q, k, v, u = (x.detach() for x in inputs(400))
    want = attention_definition(q, k, v, u, budget, gating)
    cache = SlotCache(KV_HEADS, WIDTH, budget, gating, torch.float64)
    for row in range(400):
        cache.append(k[:, row], v[:, row], u[:, row])
        assert float((cache.attend(q[:, row]) - want[:, row]).abs().max()) < 1e-14
    assert cache.keys.shape[1] == 28 + sinks
    assert int((cache.positions < 0).sum()) == 0


def test_heads_of_a_group_share_one_kept_set() -> None:
    q, k, v, u = inputs()
    budget = Budget(window=10, kept=12)
    swapped = sparsek_attention(q[[1, 0, 3, 2]], k, v, u, budget, Gating.VALUES)[[1, 0, 3, 2]]
    assert torch.equal(swapped, sparsek_attention(q, k, v, u, budget, Gating.VALUES))
