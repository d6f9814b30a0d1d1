"""The Triton kernels in Triton's CPU interpreter against the torch form, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")

PROGRAM = """
import torch
from sparsekernels.sparsek.attention import Impl, sparsek_attention
from sparsekernels.sparsek.chunked import streaming_pattern
from sparsekernels.sparsek.definition import Gating
from sparsekernels.sparsek.pattern import Budget
from sparsekernels.sparsek.triton_pattern import stream_pattern_triton

torch.set_num_threads(1)
# Of wide scores most rows have whole gates only, so that their threshold is one end of an interval.
for seed, steps, k, spread in ((0, 20, 5, 2), (1, 40, 3, 8), (2, 40, 12, 0.3)):
    torch.manual_seed(seed)
    scores = torch.randn(2, steps) * spread
    found, wanted = stream_pattern_triton(scores, k, chunk=8), streaming_pattern(scores.double(), k)
    taus = (found.thresholds, wanted.thresholds.float())
    gates = [(scores[:, None] - tau[..., None]).clamp(0, 1).tril() for tau in taus]
    assert torch.equal(found.deaths, wanted.deaths)
    assert float((gates[0] - gates[1]).abs().max()) < 1e-5
shapes = ((2, 40, 16), (1, 40, 16), (1, 40, 16), (1, 40))
for seed, spread in ((0, 1), (2, 6)):
    torch.manual_seed(seed)
    torch.randn(1, 20)
    tensors = [(torch.randn(s) * (spread if len(s) == 2 else 1)).requires_grad_() for s in shapes]
    grad = torch.randn(shapes[0])
    results = []
    for impl in Impl:
        budget = Budget(window=7, kept=6, sinks=2)
        out = sparsek_attention(*tensors, budget, Gating.KEYS_AND_VALUES, impl=impl, row_block=32)
        results.append((out, *torch.autograd.grad(out, tensors, grad)))
    for one, two in zip(*results):
        assert float((one - two).abs().max()) < 2e-5, seed
print("agreed")
"""


@pytest.mark.slow
def test_kernels_agree_with_the_torch_form() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": "kernels", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "agreed" in done.stdout


@pytest.mark.parametrize(("steps", "k", "chunk"), [(20, 5, 8), (64, 3, 16), (33, 40, 8), (100, 7, 100), (17, 1, 4)])
def test_kth_best_of_every_chunk_equals_a_top_k_of_its_prefix(steps: int, k: int, chunk: int) -> None:
    import torch
    from sparsekernels.sparsek.triton_pattern import kth_ranks_at_chunks

    scores = torch.randn(3, steps, generator=torch.Generator().manual_seed(steps))
    scores[:, ::5] = scores[:, :1]
    order = scores.sort(dim=-1, stable=True).indices
    ranks = torch.empty_like(order).scatter_(-1, order, torch.arange(steps).expand_as(order))
    found = kth_ranks_at_chunks(order, k, chunk)
    for number in range(found.shape[1]):
        prefix = ranks[:, : number * chunk]
        few = prefix.shape[1] < k
        wanted = torch.full((3,), -1) if few else prefix.topk(k, dim=1).values[:, -1]
        assert torch.equal(found[:, number], wanted)
