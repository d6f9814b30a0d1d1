"""Seconds and memory of a report on a synthetic full-size campaign: 9 tasks, 4 models, 4 lengths, 7 methods, 10 levels.

    python benchmarks/analysis_report.py --out /tmp/report

Prints the environment, CPU and wall seconds by step and the peak resident memory. Nothing in it is a measurement
of a model: the data are drawn from a known law.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import sys
import time
from importlib.metadata import version
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent.parent), str(Path(__file__).parent.parent / "kernels")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=100, help="samples a cell")
    parser.add_argument("--recorded", type=float, default=1.0, help="share of the cells that have outcomes")
    parser.add_argument("--processes", type=int, default=min(4, os.cpu_count() or 1))
    chosen = parser.parse_args()
    from orchestrator.analysis.findings import analyse
    from orchestrator.analysis.report import write_report
    from orchestrator.analysis.synthetic import synthetic_campaign

    versions = ", ".join(f"{name} {version(name)}" for name in ("numpy", "pandas", "matplotlib"))
    load = os.getloadavg()[0]
    print(
        f"python {platform.python_version()}, {versions}, {os.cpu_count()} CPUs, load {load:.1f}, {platform.machine()}"
    )
    frames = synthetic_campaign(num_samples=chosen.samples, recorded_share=chosen.recorded)
    print(f"{len(frames.cells)} cells, {frames.num_recorded} outcomes, {chosen.processes} processes")
    start = time.perf_counter()
    findings = analyse(frames)
    analysed = time.perf_counter()
    written = write_report(findings, chosen.out, processes=chosen.processes)
    end = time.perf_counter()
    size = written.html.stat().st_size / 1e6
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(use.ru_utime + use.ru_stime for use in both)
    print(f"analyses {analysed - start:.1f} s, report {end - analysed:.1f} s, together {end - start:.1f} s wall")
    print(f"{cpu:.1f} s CPU with imports and data, {len(written.figures)} figures, HTML {size:.1f} MB")
    print(f"peak resident {both[0].ru_maxrss / 1e6:.2f} GB")


if __name__ == "__main__":
    main()
