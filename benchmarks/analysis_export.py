"""Seconds and memory of writing many outcomes: rows stream from a generator into one file.

    python benchmarks/analysis_export.py --rows 10000000 --format parquet

Prints the environment, rows a second, the file's size and the peak resident memory.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent.parent), str(Path(__file__).parent.parent / "kernels")]


def rows(count: int) -> Iterator[dict[str, Any]]:
    """Outcome records of the documented columns, 100 samples a cell, with a completion of 200 characters."""
    shared: dict[str, Any] = {}
    for number in range(count):
        if number % 100 == 0:
            shared = {"campaign": "bench", "cell_key": f"{number:024x}", "model": "Qwen2.5-7B-Instruct"}
            shared |= {"method": "quest", "budget": "token_budget=1024", "compression": 20.0, "task": "ruler_niah"}
            shared |= {"length_tokens": 128000, "seed": 43}
        own = {"index": number % 100, "sample_key": f"{number:016x}", "prompt_hash": f"{number * 7:016x}"}
        own |= {"verdict": "correct", "score": (number % 5) / 4, "extracted": f"answer {number}", "reason": ""}
        own |= {"completion": f"{number:>9} " * 20, "finish_reason": "stop", "density_prefill": 1.0}
        own |= {"density_decode": 0.05, "kv_kept": 1.0, "num_prompt_tokens": 127000, "num_output_tokens": 200}
        own |= {"num_cached_tokens": 0, "num_decode_steps": 199, "seconds_to_first_token": 5.5, "seconds_decode": 4.25}
        own |= {"seconds_total": 9.75, "recorded_at": 1.7e9 + number, "failure_kind": "", "attempt_id": number // 50}
        yield {**shared, **own, "extras": None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--format", choices=["parquet", "csv", "jsonl"], default="parquet")
    chosen = parser.parse_args()
    from orchestrator.analysis import export
    from orchestrator.analysis.columns import OUTCOME_COLUMNS

    write = {"parquet": export.write_parquet, "csv": export.write_csv, "jsonl": export.write_jsonl}[chosen.format]
    load = os.getloadavg()[0]
    print(f"python {platform.python_version()}, pyarrow {version('pyarrow')}, {os.cpu_count()} CPUs, load {load:.1f}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"outcomes.{chosen.format}"
        start, cpu = time.perf_counter(), time.process_time()
        count = write(rows(chosen.rows), OUTCOME_COLUMNS, path)
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
        size = path.stat().st_size / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"{count} rows as {chosen.format}: {wall:.0f} s wall, {cpu:.0f} s CPU, {count / wall:.0f} rows/s, {size:.0f} MB"
    )
    print(f"peak resident {peak:.2f} GB")


if __name__ == "__main__":
    main()
