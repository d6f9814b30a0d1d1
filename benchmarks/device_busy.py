"""How busy this process's GPUs are while something runs, as the driver's own counter says."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from typing import Self

INTERVAL_MILLISECONDS = 200


def driver_query(field: str) -> list[str]:
    """Command that prints a field of each GPU that this process may use, one a line."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    chosen = [f"--id={visible}"] if visible else []
    return ["nvidia-smi", *chosen, f"--query-gpu={field}", "--format=csv,noheader,nounits"]


class DeviceBusy:
    """Reads nvidia-smi in the background; without a GPU it reads nothing."""

    def __init__(self) -> None:
        self._readings: list[tuple[float, float]] = []
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        try:
            self._process = subprocess.Popen(
                [*driver_query("utilization.gpu"), f"--loop-ms={INTERVAL_MILLISECONDS}"],
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            )  # fmt: skip
        except OSError:
            return self
        threading.Thread(target=self._read, args=(self._process,), daemon=True).start()
        return self

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip().isdigit():
                self._readings.append((time.time(), int(line) / 100))

    def __exit__(self, *reason: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

    def share(self, begin: float, end: float) -> float | None:
        """Mean utilisation, 0 to 1, over readings between two times (seconds since 1970); None without any."""
        inside = [busy for at, busy in self._readings if begin <= at <= end]
        return sum(inside) / len(inside) if inside else None
