"""`frontier submit` on a real local Ray cluster: the job lives on when the submitting shell has ended."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from orchestrator.scheduler.chaos.ports import free_ports
from tests.support.models import smollm2_folder

ROOT = Path(__file__).parents[2]
RAY = Path(sys.executable).with_name("ray")
FRONTIER = [sys.executable, "-m", "orchestrator.cli.main"]
SPEC = """\
name: sent
models: [{{source: {model}, name: tiny, options: {{seconds: 0.3}}, max_in_flight: 2}}]
methods: [dense]
tasks: [ruler_niah: {{num_queries: 1, needle: numbers, haystack: sentences}}]
lengths: [512]
samples: 30
max_output_tokens: 8
shard_samples: 10
"""
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not RAY.exists(), reason="the command ray is not installed")]


@pytest.fixture
def job_server() -> Iterator[str]:
    """A cluster of this machine alone; its processes are found by its own folder and ended one by one."""
    folder = tempfile.mkdtemp(prefix="frontier-jobs-", dir="/tmp")
    gcs, port, *others = free_ports(6)
    options = ["--num-cpus=2", f"--port={gcs}", f"--dashboard-port={port}", f"--temp-dir={folder}"]
    # Ray's agents have fixed ports otherwise, which another cluster of this machine may hold.
    agents = ("dashboard-agent-listen", "dashboard-agent-grpc", "runtime-env-agent", "metrics-export")
    options += [f"--{agent}-port={number}" for agent, number in zip(agents, others, strict=True)]
    command = [str(RAY), "start", "--head", "--include-dashboard=true", "--disable-usage-stats", *options]
    started = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    try:
        if started.returncode != 0 or "Failed to start the dashboard" in started.stdout + started.stderr:
            said = (started.stdout + started.stderr).strip().splitlines()
            pytest.skip(f"Ray's job server does not start here: {said[-1] if said else started.returncode}")
        yield f"http://127.0.0.1:{port}"
    finally:
        _end(folder)


def _end(folder: str) -> None:
    ours = [p for p in psutil.process_iter(["cmdline"]) if any(folder in word for word in p.info["cmdline"] or [])]
    for process in ours:
        try:
            process.send_signal(signal.SIGTERM)
        except psutil.NoSuchProcess:
            continue
    _, left = psutil.wait_procs(ours, timeout=10)
    for process in left:
        process.kill()
    shutil.rmtree(folder, ignore_errors=True)


def test_a_submitted_campaign_outlives_the_shell(job_server: str, tmp_path: Path) -> None:
    spec, store = tmp_path / "sent.yaml", tmp_path / "sent.sqlite"
    spec.write_text(SPEC.format(model=smollm2_folder()))
    submit = [*FRONTIER, "submit", str(spec), "--address", job_server, "--store", str(store)]
    shell = ["bash", "-c", '"$@"; exit $?', "bash", *submit, "--engine", "fake", "--workers", "1", "--json"]
    done = subprocess.run(
        shell, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False, start_new_session=True
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["job"].startswith("frontier-sent-")

    watch = [*FRONTIER, "watch", told["campaign"], "--store", told["store"], "--plain", "--interval", "1"]
    seen = _once_it_is_there(watch, store)
    assert seen.splitlines()[-1].split(" ", 1)[1].startswith("sent complete: 100.0 % (30/30 samples)")


def _once_it_is_there(watch: list[str], store: Path) -> str:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        if store.exists():
            done = subprocess.run(
                watch, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False, env={**os.environ}
            )
            if done.returncode == 0:
                return done.stdout
        time.sleep(1)
    raise AssertionError("the job made no campaign in its store")
