"""A campaign that is killed again and again: the same command finishes it, and nothing is done twice."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from orchestrator.store.naming import UnknownCampaign
from orchestrator.store.session import open_store
from orchestrator.store.views import campaign_snapshot, iter_outcomes
from tests.support.models import smollm2_folder

FRONTIER = Path(sys.executable).parent / "frontier"
SPEC = """\
name: killed
models: [{{source: {model}, name: smol, kv_cache_gib: 1, dtype: float32}}]
methods: [dense, quest: {{token_budget: 64}}]
tasks:
  - ruler_niah: {{num_queries: 1, needle: numbers, haystack: sentences, reply: primed}}
lengths: [512]
samples: {samples}
max_output_tokens: 4
shard_samples: {shard}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def start(folder: Path, *options: str) -> subprocess.Popen[bytes]:
    log = (folder / "log.txt").open("ab")
    command = [FRONTIER, "run", folder / "spec.yaml", "--store", folder / "store.sqlite", "--json", *options]
    # Without --ray a run has a cluster of its own, whatever others there are.
    environment = {**os.environ, "RAY_ADDRESS": "127.0.0.1:1"}
    out = (folder / "out.json").open("wb")
    return subprocess.Popen(command, stdout=out, stderr=log, env=environment, start_new_session=True)


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """The driver and everything in its session, as a lost machine would."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def recorded(folder: Path) -> dict[tuple[str, int], int]:
    """(cell, index) of every outcome, with the attempt that recorded it."""
    if not (folder / "store.sqlite").exists():
        return {}
    with open_store(f"sqlite:///{folder / 'store.sqlite'}") as store:
        try:
            return {(o.cell_key, o.sample_index): o.attempt_id for o in iter_outcomes(store, "killed")}
        except UnknownCampaign:
            return {}  # the schema is there before the campaign is


def finish(folder: Path, *options: str, seconds: float) -> dict[str, Any]:
    process = start(folder, *options)
    assert process.wait(timeout=seconds) == 0, (folder / "log.txt").read_text()[-3000:]
    document: dict[str, Any] = json.loads((folder / "out.json").read_text())
    return document


def test_driver_killed_at_any_moment_with_the_fake_engine(folder: Path) -> None:
    (folder / "spec.yaml").write_text(SPEC.format(model=smollm2_folder(), samples=300, shard=20))
    moments = random.Random(7)
    seen: dict[tuple[str, int], int] = {}
    for _ in range(6):
        process = start(folder, "--engine", "fake", "--pool", "inline")
        time.sleep(moments.uniform(1.0, 4.0))
        kill_all(process)
        now = recorded(folder)
        assert {key: now.get(key) for key in seen} == seen, "a recorded outcome was lost or written again"
        seen = now
    document = finish(folder, "--engine", "fake", "--pool", "inline", seconds=120)
    assert document["samples"]["recorded"] == document["samples"]["total"] == 600
    final = recorded(folder)
    assert {key: final[key] for key in seen} == seen
    assert Counter(cell for cell, _ in final) == {cell["key"]: 300 for cell in document["cells"]}


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_driver_and_worker_killed_with_the_real_engine_on_ray(folder: Path) -> None:
    (folder / "spec.yaml").write_text(SPEC.format(model=smollm2_folder(), samples=12, shard=4))
    process = start(folder, "--workers", "1")
    wait_for(folder, process, outcomes=3)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kill_session(process.pid)
    first = recorded(folder)
    process = start(folder, "--workers", "1")
    wait_for(folder, process, outcomes=len(first) + 3)
    killed = kill_worker(folder)
    assert killed, "no worker process was found"
    assert process.wait(timeout=400) == 0, (folder / "log.txt").read_text()[-3000:]
    document = json.loads((folder / "out.json").read_text())
    final = recorded(folder)
    assert len(final) == document["samples"]["recorded"] == 24
    assert {key: final[key] for key in first} == first
    assert document["samples"]["unscored"] == 0
    # Each life of the worker loads weights once, and the change of method between cells loads none.
    assert document["engine_loads"] == 3


def wait_for(folder: Path, process: subprocess.Popen[bytes], outcomes: int, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while len(recorded(folder)) < outcomes:
        assert process.poll() is None, f"ended early: {(folder / 'log.txt').read_text()[-3000:]}"
        assert time.monotonic() < deadline, (folder / "log.txt").read_text()[-3000:]
        time.sleep(0.3)


def kill_worker(folder: Path) -> list[int]:
    """SIGKILL the process of the campaign's living workers, as the store knows them."""
    with open_store(f"sqlite:///{folder / 'store.sqlite'}") as store:
        workers = campaign_snapshot(store, "killed").workers
    pids = [worker.pid for worker in workers if worker.pid and worker.stopped_at is None]
    alive = [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    for pid in alive:
        os.kill(pid, signal.SIGKILL)
    return alive


def kill_session(session: int) -> None:
    """End what a killed driver left behind: the local Ray cluster of its session."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[3]) == session:
            os.kill(int(stat.parent.name), signal.SIGKILL)
