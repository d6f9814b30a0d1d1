"""The worker as a Ray actor. The pool wraps this class with `ray.remote`; nothing here imports Ray."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping

from workers.core import WorkerCore
from workers.exchange import WorkerMessage, WorkerReport, WorkerStart


class WorkerActor:
    """One engine in one process. Sync methods, run by a few threads of the actor."""

    def __init__(self, start: WorkerStart, environment: Mapping[str, str], node: str = "") -> None:
        os.environ.update(environment)
        self._core = WorkerCore(start, node=node or None, on_orphaned=_exit_soon)

    def exchange(self, message: WorkerMessage) -> WorkerReport:
        """See `WorkerCore.exchange`."""
        return self._core.exchange(message)

    def stop(self) -> None:
        """Shut the engine down, then end the process; whatever is unacknowledged is dropped."""
        self._core.close()
        _exit_soon()

    def pid(self) -> int:
        return os.getpid()


def _exit_soon(seconds: float = 0.2) -> None:
    """End the process without unwinding: an engine's threads must not keep a GPU."""
    threading.Timer(seconds, os._exit, args=(0,)).start()
