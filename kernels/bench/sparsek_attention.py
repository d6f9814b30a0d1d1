"""Time and peak memory of SparseK attention beside dense attention in one run. Needs a GPU.

    PYTHONPATH=kernels python kernels/bench/sparsek_attention.py --output result.json

Checks the Triton kernels against the torch form first and refuses to time them if they disagree. Dense runs on
torch's flash and cuDNN backends, and forward on FlashAttention 3 where vLLM is installed. SparseK's times include
thresholds, end rows and key lists; `preparing` is their share of the forward. A length that the time box has no room
for is left out and named. `--device cpu` with TRITON_INTERPRET=1 tries the script; its times mean nothing.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
import triton
from sparsekernels.sparsek.attention import Impl, prepare, sparsek_attention
from sparsekernels.sparsek.definition import Gating
from sparsekernels.sparsek.pattern import Budget
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

Tensors = tuple[Tensor, Tensor, Tensor, Tensor]
HEADS, KV_HEADS, WIDTH = 28, 4, 128
"""Of Qwen2.5-7B."""
ENOUGH_SECONDS = 0.5
"""A call is repeated until its repeats took this long together."""
SPARSEK = "sparsek"


@dataclass(frozen=True, slots=True)
class Row:
    """One way to attend at one length. Milliseconds are medians."""

    tokens: int
    name: str
    forward_ms: float
    both_ms: float | None
    """Forward + backward; None where there is no backward."""
    peak_gib: float
    """Of forward + backward (of the forward alone where there is no backward), above what was allocated before."""
    preparing_ms: float | None = None
    """Thresholds, end rows and key lists, within forward_ms."""


@dataclass(slots=True)
class Run:
    """Options, the clock and the rows so far."""

    options: argparse.Namespace
    deadline: float
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    parity: dict[str, list[float]] = field(default_factory=dict)
    tiles: dict[str, dict[str, float]] = field(default_factory=dict)

    def note(self, text: str) -> None:
        print(f"note: {text}", flush=True)
        self.notes.append(text)

    def add(self, row: Row) -> None:
        self.rows.append(row)
        both = "       –" if row.both_ms is None else f"{row.both_ms:8.2f}"
        preparing = "" if row.preparing_ms is None else f"  preparing {row.preparing_ms:6.2f} ms"
        print(
            f"{row.tokens:7d} {row.name:12s} forward {row.forward_ms:8.2f} ms  forward+backward {both} ms"
            f"  peak {row.peak_gib:6.2f} GiB{preparing}",
            flush=True,
        )
        self.save()

    def save(self) -> None:
        if self.options.output:
            on_gpu = self.options.device == "cuda"
            content = {
                "device": torch.cuda.get_device_name() if on_gpu else "cpu",
                "versions": {"torch": torch.__version__, "triton": triton.__version__},
                "slots": self.options.slots,
                "gating": self.options.gating,
                "parity": self.parity,
                "tiles": self.tiles,
                "rows": [asdict(row) for row in self.rows],
                "summary": summary(self.rows),
                "notes": self.notes,
            }
            self.options.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def draw(heads: int, kv_heads: int, n: int, d: int, dtype: torch.dtype, device: str) -> Tensors:
    """Random q, k, v and scores of spread 3, all requiring gradients."""
    shapes = ((heads, n, d), (kv_heads, n, d), (kv_heads, n, d))
    q, k, v = (torch.randn(s, device=device, dtype=dtype).requires_grad_() for s in shapes)
    return q, k, v, (torch.randn(kv_heads, n, device=device) * 3).requires_grad_()


def check_parity(run: Run, gating: Gating, dtype: torch.dtype, d: int, tolerance: float) -> None:
    """Triton against torch in float64: error of output and gradients, relative to each tensor's norm."""
    # Ragged in every tile, and divisible by 16 where the timed lengths are, so that the compiled kernels serve both.
    n, budget = (
        (2032, Budget(window=80, kept=60, sinks=4))
        if run.options.device == "cuda"
        else (70, Budget(window=7, kept=6, sinks=2))
    )
    tensors = draw(6, 2, n, d, dtype, run.options.device)
    grad = torch.randn_like(tensors[0])
    out = sparsek_attention(*tensors, budget, gating, impl=Impl.TRITON)
    found = (out, *torch.autograd.grad(out, tensors, grad))
    exact = [x.detach().double().requires_grad_() for x in tensors]
    reference = sparsek_attention(exact[0], exact[1], exact[2], exact[3], budget, gating)
    wanted = (reference, *torch.autograd.grad(reference, exact, grad.double()))
    errors = [float((f.double() - w).norm() / w.norm()) for f, w in zip(found, wanted, strict=True)]
    run.parity[f"{gating} {dtype} d={d}"] = errors
    print(f"parity {gating} {dtype} d={d}: " + " ".join(f"{e:.1e}" for e in errors), flush=True)
    if max(errors) > tolerance:
        raise SystemExit(f"kernels disagree with the reference by {max(errors):.1e} (allowed {tolerance})")


def timed_ms(run: Run, call: Callable[[], Any]) -> float:
    """Milliseconds of one call."""
    if run.options.device != "cuda":
        before = time.perf_counter()
        call()
        return (time.perf_counter() - before) * 1000
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    begin.record()
    call()
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end))


def measure(run: Run, call: Callable[[], Any]) -> tuple[float, float]:
    """Median milliseconds, and peak GiB above what was allocated before; one call before both."""
    first = timed_ms(run, call)
    before = 0
    if run.options.device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    times = [timed_ms(run, call)]
    while len(times) < run.options.repeats and sum(times) < ENOUGH_SECONDS * 1000 and first < 10_000:
        times.append(timed_ms(run, call))
    peak = torch.cuda.max_memory_allocated() - before if run.options.device == "cuda" else 0
    return median(times), peak / 2**30


def dense(q: Tensor, k: Tensor, v: Tensor, backend: SDPBackend) -> Tensor:
    with sdpa_kernel(backend):
        return torch.nn.functional.scaled_dot_product_attention(
            q[None], k[None], v[None], is_causal=True, enable_gqa=True
        ).squeeze(0)


def flash_attention_3(q: Tensor, k: Tensor, v: Tensor) -> Callable[[], object]:
    """The forward that vLLM runs on a Hopper GPU, over rows of tokens as it keeps them. Raises ImportError."""
    from sparsekernels.attend import flash

    rows, keys, values = (x.detach().transpose(0, 1).contiguous() for x in (q, k, v))
    n = len(rows)
    bounds = torch.tensor([0, n], dtype=torch.int32, device=q.device)
    return partial(
        flash.varlen, q=rows, k=keys, v=values, cu_seqlens_q=bounds, cu_seqlens_k=bounds, max_seqlen_q=n,
        max_seqlen_k=n, softmax_scale=WIDTH**-0.5, causal=True,
    )  # fmt: skip


def row_of(run: Run, n: int, name: str, attend: Callable[[], Tensor], inputs: tuple[Tensor, ...], grad: Tensor) -> Row:
    with torch.no_grad():
        forward, _ = measure(run, attend)
    both, peak = measure(run, lambda: torch.autograd.grad(attend(), inputs, grad))
    return Row(n, name, forward, both, peak)


def compare(run: Run, n: int) -> None:
    """Rows of length `n`, bfloat16: SparseK first, since it is what no other place tells."""
    gating, slots = Gating(run.options.gating), run.options.slots
    q, k, v, u = draw(HEADS, KV_HEADS, n, WIDTH, torch.bfloat16, run.options.device)
    grad = torch.randn_like(q)
    budget = Budget(window=slots // 2, kept=slots - slots // 2 - 4, sinks=4)
    attend = partial(sparsek_attention, q, k, v, u, budget, gating, impl=Impl.TRITON)
    row = row_of(run, n, SPARSEK, attend, (q, k, v, u), grad)
    preparing, _ = measure(run, lambda: prepare(u, budget, gating, WIDTH**-0.5, 128, Impl.TRITON))
    run.add(Row(**{**asdict(row), "preparing_ms": preparing}))
    for name, backend in (("dense flash", SDPBackend.FLASH_ATTENTION), ("dense cuDNN", SDPBackend.CUDNN_ATTENTION)):
        if time.monotonic() > run.deadline:
            run.note(f"no time left for {name} at {n}")
            continue
        try:
            run.add(row_of(run, n, name, partial(dense, q, k, v, backend), (q, k, v), grad))
        except RuntimeError as error:
            run.note(f"{name} at {n}: {str(error).splitlines()[0]}")
    try:
        forward, peak = measure(run, flash_attention_3(q, k, v))
        run.add(Row(n, "dense FA3", forward, None, peak))
    except (ImportError, RuntimeError) as error:
        run.note(f"FlashAttention 3 at {n}: {str(error).splitlines()[0]}")


def try_tiles(run: Run, n: int, tiles: list[str]) -> None:
    """The kernels alone at length `n`; other tiles for the gradients of listed keys (32x64x8: rows, keys, warps)."""
    from sparsekernels.sparsek import triton_attention

    budget = Budget(window=run.options.slots // 2, kept=run.options.slots - run.options.slots // 2 - 4, sinks=4)
    q, k, v, u = draw(HEADS, KV_HEADS, n, WIDTH, torch.bfloat16, run.options.device)
    grad = torch.randn_like(q)
    prepared = prepare(u, budget, Gating(run.options.gating), WIDTH**-0.5, 128, Impl.TRITON)
    with torch.no_grad():
        out, lse = triton_attention.forward(q, k, v, prepared)
        forward, _ = measure(run, lambda: triton_attention.forward(q, k, v, prepared))
        print(f"{n:7d} forward kernel {forward:8.2f} ms", flush=True)
        before = triton_attention.LIST_TILE
        for tile in [f"{before[0]}x{before[1]}x{before[2]}", *tiles]:
            rows, keys, warps = (int(part) for part in tile.split("x"))
            triton_attention.LIST_TILE = (rows, keys, warps)
            backward, _ = measure(run, lambda: triton_attention.backward(q, k, v, out, lse, grad, prepared))
            run.tiles[tile] = {"tokens": n, "forward_kernel_ms": forward, "backward_kernels_ms": backward}
            print(f"{n:7d} backward kernels, tile {tile}: {backward:8.2f} ms", flush=True)
        triton_attention.LIST_TILE = before
    run.save()


def summary(rows: list[Row]) -> dict[str, Any]:
    """Growth of SparseK from length to length, and of the quickest dense over it, by length."""
    mine = {row.tokens: row for row in rows if row.name == SPARSEK}
    lengths = sorted(mine)
    found: dict[str, Any] = {"growth": [], "dense_over_sparsek": {}}
    for short, long in pairwise(lengths):
        one, two = mine[short], mine[long]
        assert one.both_ms is not None
        assert two.both_ms is not None
        found["growth"].append(
            {
                "from": short,
                "to": long,
                "tokens": long / short,
                "forward": two.forward_ms / one.forward_ms,
                "both": two.both_ms / one.both_ms,
                "peak": two.peak_gib / one.peak_gib if one.peak_gib else None,
            }
        )
    for n in lengths:
        rivals = [row for row in rows if row.tokens == n and row.name != SPARSEK]
        both = [row.both_ms for row in rivals if row.both_ms is not None]
        own = mine[n].both_ms
        if both and own:
            found["dense_over_sparsek"][n] = {
                "forward": min(row.forward_ms for row in rivals) / mine[n].forward_ms,
                "both": min(both) / own,
            }
    return found


def print_summary(rows: list[Row]) -> None:
    found = summary(rows)
    for step in found["growth"]:
        peak = "" if step["peak"] is None else f", peak {step['peak']:.2f}x"
        print(
            f"{step['from']} to {step['to']} tokens ({step['tokens']:.0f}x): sparsek's forward {step['forward']:.2f}x, "
            f"forward+backward {step['both']:.2f}x{peak}"
        )
    for n, ratio in found["dense_over_sparsek"].items():
        print(f"{n}: quickest dense over sparsek {ratio['forward']:.2f} forward, {ratio['both']:.2f} forward+backward")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[131072, 65536, 16384, 32768, 8192])
    parser.add_argument("--slots", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=5, help="at most; fewer where a call is slow")
    parser.add_argument("--gating", default=str(Gating.STRAIGHT_THROUGH), choices=[str(g) for g in Gating])
    parser.add_argument("--float32", nargs="*", default=[], help="gatings to check in float32 too; slow to compile")
    parser.add_argument("--tiles", nargs="*", default=[], help="try these too in the backward, such as 32x64x8")
    parser.add_argument("--tiles-at", type=int, default=32768, help="tokens at which tiles are tried")
    parser.add_argument("--seconds", type=float, default=110.0, help="no new length is begun after that")
    parser.add_argument("--output", type=Path, help="JSON file, written after every row")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    options = parser.parse_args()
    run = Run(options, time.monotonic() + options.seconds)
    on_gpu = options.device == "cuda"
    print(
        f"{torch.cuda.get_device_name() if on_gpu else 'cpu'}, torch {torch.__version__}, triton {triton.__version__}"
    )
    torch.manual_seed(0)
    check_parity(run, Gating(options.gating), torch.bfloat16 if on_gpu else torch.float32, 128 if on_gpu else 16, 3e-2)
    for gating in options.float32:
        check_parity(run, Gating(gating), torch.float32, 64, 2e-4)
    for n in options.lengths:
        if time.monotonic() > run.deadline:
            run.note(f"no time left for {n}")
            continue
        compare(run, n)
    if options.tiles and time.monotonic() < run.deadline:
        try_tiles(run, options.tiles_at, options.tiles)
    print_summary(run.rows)
    run.save()


if __name__ == "__main__":
    main()
