"""The orchestrator process of a drill: `python -m orchestrator.scheduler.chaos.driver JOB.json`."""

from __future__ import annotations

import json
import logging
import signal
import sys
import threading
import time
from pathlib import Path

from orchestrator.domain.retry import RetryPolicy
from orchestrator.errors import UserError
from orchestrator.scheduler.campaign import run_campaign
from orchestrator.scheduler.ray_pool import RayPool
from orchestrator.scheduler.settings import LoopSettings
from orchestrator.store.session import open_store


def main(job_file: str) -> int:
    """Run the campaign that the job names; exit code as `frontier run`."""
    job = json.loads(Path(job_file).read_text())
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    if skew := float(job.get("skew_seconds", 0.0)):
        _skew_clock(skew)
    settings = LoopSettings(
        tick_seconds=0.1,
        look_seconds=0.5,
        lease_seconds=job["lease_seconds"],
        campaign_lease_seconds=3.0,
        start_seconds=30.0,
        stall_seconds=job["stall_seconds"],
        orphan_seconds=60.0,
        grace_seconds=6.0,
        canary_seconds=20.0,
        outage_seconds=900.0,
        policy=RetryPolicy(first_delay_seconds=0.2, max_start_failures=1000),
        spool_folder=Path(job["spool_folder"]),
    )
    stop = threading.Event()
    with open_store(job["store"]) as store:
        pool = RayPool(job["num_workers"], address=job["address"])
        signal.signal(signal.SIGTERM, lambda *_: stop.set())  # after Ray, which sets its own
        return run_campaign(store, job["campaign"], pool, settings=settings, stop_event=stop).exit_code


def _skew_clock(seconds: float) -> None:
    """This process believes in another time of day; leases must not care."""
    real = time.time
    time.time = lambda: real() + seconds


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1]))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
