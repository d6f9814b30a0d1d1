"""SparseK's Triton kernels on a GPU against the torch form in float64."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("gating", ["keys_and_values", "values", "straight_through"])
def test_output_and_gradients_in_bfloat16(gating: str) -> None:
    from sparsekernels.sparsek.attention import Impl, sparsek_attention
    from sparsekernels.sparsek.definition import Gating
    from sparsekernels.sparsek.pattern import Budget

    torch.manual_seed(0)
    shapes = ((6, 1000, 128), (2, 1000, 128), (2, 1000, 128))
    tensors = [torch.randn(s, device="cuda", dtype=torch.bfloat16).requires_grad_() for s in shapes]
    tensors.append((torch.randn(2, 1000, device="cuda") * 3).requires_grad_())
    grad, budget = torch.randn_like(tensors[0]), Budget(window=70, kept=60, sinks=4)
    exact = [x.detach().double().requires_grad_() for x in tensors]
    out = sparsek_attention(*tensors, budget, Gating(gating), impl=Impl.TRITON)
    want = sparsek_attention(*exact, budget, Gating(gating))
    found = (out, *torch.autograd.grad(out, tensors, grad))
    wanted = (want, *torch.autograd.grad(want, exact, grad.double()))
    for one, two in zip(found, wanted, strict=True):
        assert float((one.double() - two).norm() / two.norm()) < 3e-2
