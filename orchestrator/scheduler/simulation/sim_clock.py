"""One clock for the loop and for the store, moved by the simulation alone."""

from __future__ import annotations

from typing import Any

from sqlalchemy import event

from orchestrator.store.session import Store

START = 1_700_000_000.0
"""The store's time at the start of every simulation, seconds since 1970."""


class SimClock:
    """Seconds since the start of the simulation."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def rule(self, store: Store) -> None:
        """Make the SQLite store read this clock instead of the machine's, and not wait for disks."""
        for engine in (store.writer, store.reader):
            event.listen(engine, "connect", self._prepare)
            engine.dispose()

    def _prepare(self, connection: Any, record: Any) -> None:
        # Defining a function of the same name replaces SQLite's own.
        connection.create_function("julianday", 1, lambda _: (START + self.now) / 86400.0 + 2440587.5)
        connection.execute("PRAGMA synchronous = OFF")
