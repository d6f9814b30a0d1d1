"""Reads snapshots in the background, so that keys answer at once, and rarely enough to be no load on the store."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from orchestrator.dashboard.snapshot import Snapshot

Fetch = Callable[[], Snapshot]
STORE_SHARE = 0.02
"""Largest share of the time that a viewer keeps the store busy."""


class SnapshotReader:
    """Keeps the latest snapshot. While the store is away it keeps the last one and says so in `notice`."""

    def __init__(self, fetch: Fetch, interval_seconds: float) -> None:
        self._fetch = fetch
        self._interval = interval_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dashboard-reader", daemon=True)
        self.latest = fetch()
        self.notice = ""
        self.pause_seconds = interval_seconds

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._stop.wait(self.pause_seconds):
            self._read_once()

    def _read_once(self) -> None:
        started = time.monotonic()
        try:
            self.latest = self._fetch()
            self.notice = ""
        except Exception as error:  # whatever the database driver raises; the viewer stays open and tries again
            since = self.latest.header.taken_at.strftime("%H:%M:%S")
            self.notice = f"store out of reach since {since} UTC, trying again: {_first_line(error)}"
        self.pause_seconds = max(self._interval, (time.monotonic() - started) * (1 / STORE_SHARE - 1))


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]
