"""`frontier bench`: commands that measure both sides of a claim in one run and print ratios."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import typer

from orchestrator.errors import UserError

BENCHMARKS = {
    "kernels": ("kernels/bench/run.py", "Sparse kernels against dense FlashAttention, parity checked first."),
    "sparsek": ("kernels/bench/sparsek_attention.py", "SparseK forward and backward against dense attention."),
    "engine": (
        "benchmarks/engine.py",
        "Every method against dense in vLLM, and one-at-a-time against production mode.",
    ),
    "switches": ("benchmarks/method_switches.py", "Extra latency when the method changes between two requests."),
    "campaign": (
        "benchmarks/campaign_modes.py",
        "One campaign one request at a time, without a shared cache, and as it would run.",
    ),
    "grid": ("benchmarks/decode_grid.py", "A prompt's decode grid over one shared prefill, against one run a cell."),
    "real-campaign": (
        "benchmarks/real_campaign.py",
        "A campaign on Ray in a time box: killed, resumed, exported, reported and packed.",
    ),
    "tasks": ("benchmarks/task_generation.py", "Samples per second of every task."),
    "control-plane": ("benchmarks/control_plane.py", "Overhead of scheduler and store per sample."),
    "dashboard": ("benchmarks/dashboard_scale.py", "Attach and refresh times on a store of millions of outcomes."),
    "memory": ("benchmarks/memory_fit.py", "The memory check of `frontier plan` against vLLM's own accounting."),
}
ROOT = Path(__file__).parents[2]


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(
        "bench",
        epilog="Example: frontier bench tasks --help",
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": ["-h"]},
    )(bench)


def bench(
    context: typer.Context,
    name: str = typer.Argument(..., metavar="NAME", help=", ".join(BENCHMARKS)),
) -> None:
    """Run a benchmark; further arguments go to it (`frontier bench NAME --help`)."""
    if name == "--help":  # taken as the name, since a benchmark's own --help must reach it
        typer.echo(context.get_help())
        return
    if name not in BENCHMARKS:
        lines = ", ".join(BENCHMARKS)
        raise UserError(f"unknown benchmark {name!r}; known: {lines}")
    script = ROOT / BENCHMARKS[name][0]
    if not script.is_file():
        raise UserError(f"benchmark {name}: {BENCHMARKS[name][0]} comes with the source tree, not with the package")
    sys.path.insert(0, str(ROOT))  # benchmarks share modules, and are no part of the package
    sys.argv = [f"frontier bench {name}", *context.args]
    runpy.run_path(str(script), run_name="__main__")
