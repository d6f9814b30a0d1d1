"""`frontier bench kernels`: parity first, then times; figures are printed only for what passed in the same call."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch

from sparsekernels.bench import parity
from sparsekernels.bench.bars import verdicts
from sparsekernels.cuda.quest_step import can_run
from sparsekernels.parameters import BlockSparse, FlexPrefill, VerticalSlash
from sparsekernels.prefill import PrefillMethod

SMALL = (8, 2, 128)
PREFILL: tuple[PrefillMethod, ...] = (
    VerticalSlash(vertical_size=60, slash_size=90, window=100),
    FlexPrefill(alpha=0.6, min_budget=64, window=100),
    BlockSparse(top_blocks=12, row_block=128),
    BlockSparse(top_blocks=6, block_size=64, row_block=128),
    BlockSparse(top_blocks=4, block_size=128, row_block=128),
)
LENGTHS = ((1, 1), (17, 17), (129, 129), (300, 777), (1000, 1000), (1024, 1024))


def main(argv: list[str] | None = None) -> int:
    """Run as `frontier bench kernels …`; returns the exit code."""
    arguments = _parser().parse_args(argv)
    if not torch.cuda.is_available():
        print("frontier bench kernels: no CUDA device here; the kernels' tests run on the CPU, their times do not")
        return 2
    if arguments.share:
        _check_share(arguments.only, *map(int, arguments.share.split("/")))
        return 0
    environment = describe()
    print(json.dumps(environment), flush=True)
    _compile_ahead(arguments.only, arguments.processes)
    failures = _parity(arguments.only)
    if failures:
        print("\n".join(failures))
        print("parity failed: nothing is timed")
        return 1
    lines: list[dict[str, Any]] = []
    if arguments.only in ("all", "prefill"):
        lines += _prefill(arguments)
    if arguments.only in ("all", "decode"):
        lines += _decode()
    print("\n".join(verdicts(lines)), flush=True)
    if arguments.output:
        Path(arguments.output).write_text(json.dumps({"environment": environment, "lines": lines}, indent=1))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="frontier bench kernels", description=__doc__)
    parser.add_argument("--only", choices=("all", "prefill", "decode"), default="all")
    parser.add_argument("--lengths", type=int, nargs="+", default=[32768, 65536, 131072], help="prompt tokens")
    parser.add_argument("--inputs", choices=("random", "clustered"), nargs="+", default=["random", "clustered"])
    parser.add_argument("--densities", type=float, nargs="+", default=[0.2, 0.1], help="targets to calibrate to")
    parser.add_argument("--flex-attention", action="store_true", help="also time FlexAttention (compiles for a while)")
    parser.add_argument("--processes", type=int, default=1, help="processes that compile the parity checks' kernels")
    parser.add_argument("--share", help=argparse.SUPPRESS)
    parser.add_argument("--output", help="file for the figures, JSON")
    return parser


def describe() -> dict[str, str]:
    """Versions and the device."""
    import triton

    versions = {"python": platform.python_version(), "torch": torch.__version__, "triton": triton.__version__}
    try:
        from importlib.metadata import version

        versions["vllm"] = version("vllm")
    except ImportError:
        pass
    return versions | {"device": torch.cuda.get_device_name(), "cuda": str(torch.version.cuda)}


def parity_checks(only: str) -> list[tuple[str, Callable[[], None]]]:
    """Every parity check of the ops to be timed, by name."""
    bf16: dict[str, Any] = dict(device="cuda", dtype=torch.bfloat16, heads=SMALL)
    checks: list[tuple[str, Callable[[], None]]] = []
    if only in ("all", "prefill"):
        for method, executor, (rows, length) in product(PREFILL, ("flash", "triton"), LENGTHS):
            page = None if rows == length else 16
            check = partial(parity.check_prefill, method, executor, num_queries=rows, length=length, page=page, **bf16)
            checks.append((f"{method.name} {executor} {rows}/{length}", check))
    if only in ("all", "decode"):
        quest: dict[str, Any] = dict(
            lengths=[1000, 17, 1, 2500, 640], budgets=[320, 320, 16, 512, 640], page_size=16, cache_page=16
        )
        kept: dict[str, Any] = dict(lengths=[400, 110, 1700], generated=40, capacity=300, cache_page=16)
        one: dict[str, Any] = {key: quest[key] for key in ("lengths", "budgets", "cache_page")}
        for ties in (False, True) if can_run(0) else ():
            checks.append((f"quest cuda ties={ties}", partial(parity.check_quest_step, ties=ties, **one, **bf16)))
        for executor in ("flash", "triton"):
            for share in (True, False):
                check = partial(parity.check_quest, executor, share_pages=share, **quest, **bf16)
                checks.append((f"quest {executor} share={share}", check))
            checks.append((f"kept {executor}", partial(parity.check_kept, executor, **kept, **bf16)))
    return checks


def _compile_ahead(only: str, processes: int) -> None:
    """Fill Triton's cache on disk: each child runs a share of the parity checks, whose verdicts are not used."""
    if processes < 2:
        return
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in paths if p)}
    command = [sys.executable, "-m", "sparsekernels.bench.command", "--only", only, "--share"]
    children = [subprocess.Popen([*command, f"{i}/{processes}"], env=environment) for i in range(processes)]
    for child in children:
        child.wait()


def _check_share(only: str, share: int, shares: int) -> None:
    for _, check in parity_checks(only)[share::shares]:
        with contextlib.suppress(Exception):
            check()


def _parity(only: str) -> list[str]:
    failures, checks = [], parity_checks(only)
    for name, check in checks:
        try:
            check()
        except Exception as error:
            failures.append(f"{name}: {type(error).__name__} {str(error)[:300]}")
    print(f"parity: {len(checks) - len(failures)} of {len(checks)} checks passed", flush=True)
    return failures


def _prefill(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    from sparsekernels.bench import prefill_cost

    print("  length inputs    method         executor       density  tiles  dense ms total ms index ms     f f(tile)")
    lines = []
    for cost in prefill_cost.measure(
        arguments.lengths, arguments.inputs, arguments.densities, flex=arguments.flex_attention
    ):
        size = cost.parameters.get("block_size", "")
        print(
            f"{cost.length:8} {cost.inputs:9} {cost.method + (f'/{size}' if size else ''):16} {cost.executor:14} "
            f"{cost.density:6.3f} {cost.tile_density:6.3f} {cost.dense_ms:9.2f} {cost.total_ms:8.2f} "
            f"{cost.index_ms:8.2f} {cost.f:5.2f} {cost.f_tile:6.2f}",
            flush=True,
        )
        lines.append({**asdict(cost), "f": cost.f, "f_tile": cost.f_tile})
    return lines


def _decode() -> list[dict[str, Any]]:
    from sparsekernels.bench import decode_cost

    quest = [(n, b, t) for n in (32768, 131072) for b in (8, 32) for t in (1024, 4096)]
    kept = [(32768, 8, 4096), (32768, 32, 4096), (131072, 8, 12800)]
    print("method  executor   length batch budget dense us select us total us bound us  x bound")
    lines = []
    costs = [partial(decode_cost.measure_quest, *case) for case in quest]
    costs += [partial(decode_cost.measure_kept, *case) for case in kept]
    for measured in costs:
        for c in measured():
            print(
                f"{c.method:7} {c.executor:9} {c.length:7} {c.batch:5} {c.budget:6} {c.dense_us:8.1f} "
                f"{c.select_us:9.1f} {c.total_us:8.1f} {c.bound_us:8.1f} {c.total_us / c.bound_us:8.2f}",
                flush=True,
            )
            lines.append(asdict(c))
        torch.cuda.empty_cache()
    return lines


if __name__ == "__main__":
    sys.exit(main())
