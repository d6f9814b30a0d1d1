"""Time and peak memory of SparseK attention beside dense attention in one run. Needs a GPU.

    PYTHONPATH=kernels python kernels/bench/sparsek_attention.py --lengths 8192 32768 131072

Checks the Triton kernels against the torch form first and refuses to time them if they disagree. Dense runs
on torch's flash and cuDNN backends. Times include thresholds, end rows and key lists.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import triton
from sparsekernels.sparsek.attention import Impl, sparsek_attention
from sparsekernels.sparsek.definition import Gating
from sparsekernels.sparsek.pattern import Budget
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

Tensors = tuple[Tensor, Tensor, Tensor, Tensor]


def draw(heads: int, kv_heads: int, n: int, d: int, dtype: torch.dtype) -> Tensors:
    """Random q, k, v and scores of spread 3, all requiring gradients."""
    shapes = ((heads, n, d), (kv_heads, n, d), (kv_heads, n, d))
    q, k, v = (torch.randn(s, device="cuda", dtype=dtype).requires_grad_() for s in shapes)
    return q, k, v, (torch.randn(kv_heads, n, device="cuda") * 3).requires_grad_()


def check_parity(gating: Gating, float32: list[str]) -> None:
    """Triton against torch in float64: float32 within 2e-4 of each tensor's scale, bfloat16 within 3e-2."""
    budget = Budget(window=70, kept=60, sinks=4)
    cases = [(Gating(g), torch.float32, 64, 2e-4) for g in float32] + [(gating, torch.bfloat16, 128, 3e-2)]
    for gating, dtype, d, tolerance in cases:
        tensors = draw(6, 2, 1000, d, dtype)
        grad = torch.randn_like(tensors[0])
        out = sparsek_attention(*tensors, budget, gating, impl=Impl.TRITON)
        found = (out, *torch.autograd.grad(out, tensors, grad))
        exact = [x.detach().double().requires_grad_() for x in tensors]
        reference = sparsek_attention(exact[0], exact[1], exact[2], exact[3], budget, gating)
        wanted = (reference, *torch.autograd.grad(reference, exact, grad.double()))
        errors = [float((f.double() - w).norm() / w.norm()) for f, w in zip(found, wanted, strict=True)]
        print(f"parity {gating} {dtype} d={d}: " + " ".join(f"{e:.1e}" for e in errors), flush=True)
        if max(errors) > tolerance:
            raise SystemExit(f"kernels disagree with the reference by {max(errors):.1e} (allowed {tolerance})")


def measure(run: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Median milliseconds, and peak GiB above what was allocated before."""
    run()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(repeats):
        begin, end = (
            torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            for _ in range(2)
        )
        begin.record()
        run()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return sorted(times)[len(times) // 2], (torch.cuda.max_memory_allocated() - before) / 2**30


def dense(q: Tensor, k: Tensor, v: Tensor, backend: SDPBackend) -> Tensor:
    with sdpa_kernel(backend):
        return torch.nn.functional.scaled_dot_product_attention(
            q[None], k[None], v[None], is_causal=True, enable_gqa=True
        )


class Times(NamedTuple):
    forward_ms: float
    both_ms: float
    peak_gib: float
    name: str


def times(name: str, attend: Callable[[], Tensor], inputs: tuple[Tensor, ...], grad: Tensor, repeats: int) -> Times:
    """Forward, forward + backward, and the latter's peak memory."""
    with torch.no_grad():
        forward, _ = measure(attend, repeats)
    both, peak = measure(lambda: torch.autograd.grad(attend(), inputs, grad), repeats)
    return Times(forward, both, peak, name)


def compare(n: int, slots: int, repeats: int, gating: Gating) -> None:
    """One line: dense and SparseK at length n, Qwen2.5-7B heads (28 query, 4 KV, 128 wide), bfloat16."""
    q, k, v, u = draw(28, 4, n, 128, torch.bfloat16)
    grad = torch.randn_like(q)
    budget = Budget(window=slots // 2, kept=slots - slots // 2 - 4, sinks=4)
    found = []
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION):
        attend = partial(dense, q, k, v, backend)
        try:
            found.append(times(f"dense {backend.name}", attend, (q, k, v), grad[None], repeats))
        except RuntimeError as error:
            print(f"  {backend.name}: {str(error).splitlines()[0]}")
    mine = partial(sparsek_attention, q, k, v, u, budget, gating, impl=Impl.TRITON)
    found.append(times("sparsek", mine, (q, k, v, u), grad, repeats))
    for row in found:
        ratios = f"{row.forward_ms / found[-1].forward_ms:6.2f} {row.both_ms / found[-1].both_ms:6.2f}"
        print(
            f"n={n:6d} slots={slots} {row.name:24s} forward {row.forward_ms:8.2f} ms  forward+backward "
            f"{row.both_ms:8.2f} ms  peak {row.peak_gib:6.2f} GiB  time over sparsek's {ratios}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[8192, 16384, 32768, 65536, 131072])
    parser.add_argument("--slots", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--gating", default=str(Gating.STRAIGHT_THROUGH), choices=[str(g) for g in Gating])
    parser.add_argument("--float32", nargs="*", default=[], help="gatings to check in float32 too; slow to compile")
    options = parser.parse_args()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, triton {triton.__version__}")
    torch.manual_seed(0)
    check_parity(Gating(options.gating), options.float32)
    for n in options.lengths:
        compare(n, options.slots, options.repeats, Gating(options.gating))


if __name__ == "__main__":
    main()
