"""Scores of the nine tasks after kill -9 of the engine process and of the orchestrator, against an undisturbed run.

    PYTHONPATH=.:kernels python benchmarks/killed_nine_tasks.py [--samples 2] [--folder FOLDER]

Runs `examples/nine_tasks.yaml` in float32 at 1,024 tokens, with three of its methods and an engine process of its own,
twice on a Ray cluster that it starts: undisturbed, and with both kills. Real engine, real model; minutes on two cores.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

from orchestrator.scheduler.chaos.cluster import DrillCluster, drill_environment  # noqa: E402
from orchestrator.scheduler.chaos.processes import command_of, descendants  # noqa: E402
from orchestrator.store.naming import UnknownCampaign  # noqa: E402
from orchestrator.store.session import open_store  # noqa: E402
from orchestrator.store.verify import verify_campaign  # noqa: E402
from orchestrator.store.views import campaign_snapshot, failure_rows, iter_outcomes  # noqa: E402

NAME = "nine_tasks"
Table = dict[tuple[str, int], tuple[Any, ...]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=2, help="of each cell")
    parser.add_argument("--folder", type=Path, default=None)
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="frontier-killed-"))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spec.yaml").write_text(_spec(options.samples))
    cluster = DrillCluster(folder, cpus_per_node=2)
    try:
        cluster.add_node()
        started = time.monotonic()
        calm = _start(folder, "calm", cluster.address)
        print(f"undisturbed: exit code {calm.wait()} after {time.monotonic() - started:.0f} s", flush=True)
        _disturbed(folder, cluster.address)
    finally:
        cluster.stop()
    _compare(folder)


def _spec(samples: int) -> str:
    """The example, smaller and in float32."""
    text = (ROOT / "examples" / "nine_tasks.yaml").read_text()
    for pattern, new in (
        (r"dtype: \w+", "dtype: float32\n    options: {in_process: false}"),
        (r"  - quest: .*\n", "  - quest: {token_budget: 256}\n"),
        (r"  - snapkv: .*\n  - ada_snapkv: .*\n", "  - snapkv: {token_capacity: 256, window: 64}\n"),
        (r"lengths: .*", "lengths: [1024]"),
        (r"\nsamples: .*", f"\nsamples: {samples}\nshard_samples: 1"),
    ):
        text, found = re.subn(pattern, new, text)
        if found != 1:
            raise SystemExit(f"error: examples/nine_tasks.yaml has changed: {pattern!r} is there {found} times")
    return text


def _start(folder: Path, run: str, address: str) -> subprocess.Popen[bytes]:
    store = folder / f"{run}.sqlite"
    command = [sys.executable, "-m", "orchestrator.cli.main", "run", str(folder / "spec.yaml"), "--store", str(store)]
    with (folder / f"{run}.log").open("ab") as log:
        return subprocess.Popen(
            [*command, "--ray", address, "--workers", "1", "--plain"],
            env={**drill_environment(), "OMP_NUM_THREADS": "2"},
            stdout=log,
            stderr=log,
        )


def _disturbed(folder: Path, address: str) -> None:
    total = len(_table(folder, "calm"))
    process = _start(folder, "killed", address)
    _until(folder, process, total // 6)
    engine = _engine_process(folder)
    os.kill(engine, signal.SIGKILL)
    print(f"killed engine process {engine} after {len(_table(folder, 'killed'))} outcomes", flush=True)
    _until(folder, process, total // 2)
    process.kill()
    process.wait()
    print(f"killed the orchestrator after {len(_table(folder, 'killed'))} outcomes", flush=True)
    print(f"the same command again: exit code {_start(folder, 'killed', address).wait()}", flush=True)


def _until(folder: Path, process: subprocess.Popen[bytes], number: int) -> None:
    while len(_table(folder, "killed")) < number:
        if process.poll() is not None:
            raise SystemExit(f"error: the campaign ended early; see {folder / 'killed.log'}")
        time.sleep(0.3)


def _engine_process(folder: Path) -> int:
    """The child of the campaign's worker that vLLM runs in."""
    with open_store(f"sqlite:///{folder / 'killed.sqlite'}") as store:
        living = [w.pid for w in campaign_snapshot(store, NAME).workers if w.pid and w.stopped_at is None]
    found = [p for worker in living for p in descendants(worker)]
    named = [p for p in found if "EngineCore" in command_of(p) or "spawn_main" in command_of(p)]
    if not named:
        raise SystemExit("error: the worker has no engine process")
    return named[0]


def _table(folder: Path, run: str) -> Table:
    if not (folder / f"{run}.sqlite").exists():
        return {}
    with open_store(f"sqlite:///{folder / run}.sqlite") as store:
        try:
            rows = list(iter_outcomes(store, NAME, with_completions=True))
        except UnknownCampaign:
            return {}
    return {(o.cell_key, o.sample_index): (o.verdict, o.score, o.prompt_hash, o.completion) for o in rows}


def _compare(folder: Path) -> None:
    calm, killed = _table(folder, "calm"), _table(folder, "killed")
    scores = sum(calm[key][:2] == killed.get(key, ())[:2] for key in calm)
    texts = sum(calm[key] == killed.get(key) for key in calm)
    print(f"{len(calm)} samples undisturbed, {len(killed)} with kills; equal scores {scores}, equal texts {texts}")
    for run in ("calm", "killed"):
        with open_store(f"sqlite:///{folder / run}.sqlite") as store:
            proof, failed = verify_campaign(store, NAME), failure_rows(store, NAME)
            num_workers = len(campaign_snapshot(store, NAME).workers)
        kinds = dict(Counter(f"{f.kind}, {'charged' if f.charged else 'not charged'}" for f in failed))
        print(f"{run}: proven {proof.is_proven}, {num_workers} workers, failures {kinds}, manifest {proof.manifest}")


if __name__ == "__main__":
    main()
