"""The loop in a thread of its own, so that the caller's thread can look, and stop it."""

from __future__ import annotations

import threading

from orchestrator.scheduler.campaign import CampaignResult, run_campaign
from orchestrator.scheduler.pool import WorkerPool
from orchestrator.scheduler.settings import LoopSettings
from orchestrator.store.session import Store


class BackgroundRun:
    """One run of a campaign; `stop` asks it to drain, `done` says that it has ended."""

    def __init__(
        self, store: Store, name: str, pool: WorkerPool, settings: LoopSettings, wall_seconds: float | None = None
    ) -> None:
        self.stop, self.done = threading.Event(), threading.Event()
        self._arguments = (store, name, pool, settings, wall_seconds)
        self._result: CampaignResult | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="campaign-loop")

    def start(self) -> None:
        self._thread.start()

    def result(self) -> CampaignResult:
        """Waits for the end. Raises what the loop raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result

    def _work(self) -> None:
        store, name, pool, settings, wall_seconds = self._arguments
        try:
            self._result = run_campaign(
                store, name, pool, settings=settings, stop_event=self.stop, wall_seconds=wall_seconds
            )
        except BaseException as error:
            self._error = error
        finally:
            self.done.set()
