"""A Ray node of our own on this machine, for benchmarks that run the real command on Ray."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.device_busy import driver_query
from orchestrator.scheduler.chaos.ports import free_ports
from orchestrator.scheduler.chaos.processes import kill_tree, send

ROOT = Path(__file__).resolve().parents[1]
START_SECONDS = 90.0
START_TRIES = 3
MARK = "FRONTIER_RAY_HEAD"
"""Environment variable by which everything that the node has started is known, orphans included."""


class RayHead:
    """One Ray node: all CPUs, the GPUs that this process may use. Raises SystemExit when it does not start."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._temporary = Path("/tmp") / f"frontier-ray-{os.getpid()}"
        self._log = folder / "ray-start.log"
        self._environment = {**environment, MARK: str(self._temporary)}
        for _ in range(START_TRIES):
            if self._starts():
                return
            self.stop()
        raise SystemExit("error: Ray did not start: " + self._log.read_text()[-2000:])

    def _starts(self) -> bool:
        """One `ray start`; a busy machine may let Ray's own 30 seconds pass."""
        port = free_ports(1)[0]
        self.address = f"127.0.0.1:{port}"
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}"]
        command += ["--include-dashboard=false", "--disable-usage-stats"]
        command += [f"--num-gpus={num_gpus()}", f"--num-cpus={max(2, os.cpu_count() or 2)}"]
        command += ["--object-store-memory=200000000", f"--temp-dir={self._temporary}"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + START_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            if b"Ray runtime started" in self._log.read_bytes():
                return True
            time.sleep(0.1)
        return False

    def logs(self) -> list[Path]:
        """What Ray and its workers have written."""
        return [self._log, *sorted(self._temporary.glob("session_latest/logs/*.*"))]

    def marked(self) -> list[int]:
        """Living processes that the node or its workers have started."""
        wanted = f"{MARK}={self._temporary}".encode()
        return [
            int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and wanted in _environ(entry)
        ]

    def stop(self) -> None:
        """Kill the node, its workers and their engines, and remove Ray's folder."""
        kill_tree(self._process.pid)
        self._process.wait()
        for process in self.marked():
            send(process, signal.SIGKILL)
        shutil.rmtree(self._temporary, ignore_errors=True)


def _environ(entry: Path) -> list[bytes]:
    try:
        return (entry / "environ").read_bytes().split(b"\0")
    except OSError:
        return []


def num_gpus() -> int:
    return len(_names_of_gpus())


def device() -> str:
    """The GPUs that this process may use by name, or `cpu`."""
    names = _names_of_gpus()
    return f"{len(names)} x {', '.join(sorted(set(names)))}" if names else "cpu"


def _names_of_gpus() -> list[str]:
    try:
        return subprocess.run(driver_query("name"), capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        return []


def environment_for(scratch: Path) -> dict[str, str]:
    """For Ray, the orchestrator and the workers: our packages, no network, no killing by Ray for memory's sake."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels"), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    fixed = {
        "PYTHONPATH": path,
        "FRONTIER_HOME": os.environ.get("FRONTIER_HOME", str(scratch / "home")),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        # A machine may show less memory than it has.
        "RAY_memory_monitor_refresh_ms": "0",
        "HF_HUB_OFFLINE": "1",
    }
    # Ray would give a worker of one CPU one thread, also to compile and to make samples with.
    return {**os.environ, "OMP_NUM_THREADS": str(max(2, (os.cpu_count() or 2) // 2)), **fixed}
