"""A Ray cluster of several raylets on this machine, started by Ray's own command and made to be broken."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import UserError
from orchestrator.scheduler.chaos.ports import free_ports
from orchestrator.scheduler.chaos.processes import command_of, descendants, kill_tree, send

_START_SECONDS = 90.0
_START_TRIES = 5
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "8",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "RAY_NUM_REDIS_GET_RETRIES": "60",
    "OMP_NUM_THREADS": "1",
}
"""Quick to notice a loss, so that a drill is short; production keeps Ray's slower health checks."""


@dataclass(frozen=True, slots=True)
class ClusterNode:
    """One `ray start --block` with everything below it."""

    process: subprocess.Popen[bytes]

    @property
    def is_up(self) -> bool:
        return self.process.poll() is None and self.raylet is not None

    @property
    def raylet(self) -> int | None:
        for process in descendants(self.process.pid):
            if "/raylet/raylet" in command_of(process):
                return process
        return None

    def all_processes(self) -> list[int]:
        return [self.process.pid, *descendants(self.process.pid)]


class DrillCluster:
    """A head without room for workers, and nodes that come and go."""

    def __init__(self, folder: Path, cpus_per_node: int) -> None:
        self._folder, self._cpus = folder, cpus_per_node
        self._port = free_ports(1)[0]
        self._num_starts = 0
        self.address = f"127.0.0.1:{self._port}"
        self._temporary = Path("/tmp") / f"frontier-ray-{os.getpid()}-{self._port}"
        self.head = self._start(
            "--head",
            f"--port={self._port}",
            "--num-cpus=0",
            "--include-dashboard=false",
            f"--temp-dir={self._temporary}",
        )
        self.nodes: list[ClusterNode] = []

    def add_node(self, gpus: int = 0) -> ClusterNode:
        """One more raylet; Ray starts several on one host only one after another. The GPUs are a number, no device."""
        node = self._start(f"--address={self.address}", f"--num-cpus={self._cpus}", f"--num-gpus={gpus}")
        self.nodes.append(node)
        return node

    def living(self) -> list[ClusterNode]:
        self.nodes = [node for node in self.nodes if node.process.poll() is None]
        return [node for node in self.nodes if node.is_up]

    def stop(self) -> None:
        """Kill every process and remove Ray's folder."""
        for node in [*self.nodes, self.head]:
            for process in node.all_processes():
                send(process, signal.SIGCONT)
            kill_tree(node.process.pid)
            node.process.wait()
        self._sweep()
        shutil.rmtree(self._temporary, ignore_errors=True)

    def _sweep(self) -> None:
        """Workers whose raylet was killed before them have another parent now; they name our folder."""
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and str(self._temporary) in command_of(int(entry.name)):
                send(int(entry.name), signal.SIGKILL)

    def _start(self, *options: str) -> ClusterNode:
        """One `ray start --block`, tried again when a busy machine lets Ray's own 30 s pass."""
        for _ in range(_START_TRIES):
            self._num_starts += 1
            log = self._folder / f"ray-{self._num_starts}.log"
            node = ClusterNode(self._launch(log, options))
            deadline = time.monotonic() + _START_SECONDS
            while node.process.poll() is None and time.monotonic() < deadline:
                if b"Ray runtime started" in log.read_bytes():
                    return node
                time.sleep(0.2)
            kill_tree(node.process.pid)
            node.process.wait()
        raise UserError(f"Ray did not start; see {log}")

    def _launch(self, log: Path, options: tuple[str, ...]) -> subprocess.Popen[bytes]:
        program = Path(sys.executable).parent / "ray"
        with log.open("wb") as file:
            return subprocess.Popen(
                [str(program), "start", *options, "--object-store-memory=80000000", "--block"],
                env=drill_environment(),
                stdout=file,
                stderr=file,
                start_new_session=True,
            )


def drill_environment() -> dict[str, str]:
    """For processes that connect to a drill's cluster."""
    return {**os.environ, **_SETTINGS, "PYTHONPATH": _import_path()}


def _import_path() -> str:
    """Workers must find our packages, installed or not."""
    own = str(Path(__file__).parents[3])
    return os.pathsep.join([own, str(Path(own) / "kernels"), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
