"""The campaign as log lines, for output that is not a terminal."""

from __future__ import annotations

import threading
from collections.abc import Callable

from orchestrator.dashboard import wording
from orchestrator.dashboard.reader import Fetch
from orchestrator.dashboard.snapshot import Header, Snapshot

MOST_EVENTS = 20
"""Events told one by one between two progress lines; of more, the number of the others is told."""


def progress_line(header: Header) -> str:
    """One line: when, how far, how fast, how long still."""
    parts = [
        f"{wording.percent(header.done_share, 1)} ({header.num_recorded}/{header.num_samples} samples)",
        wording.rate(header.samples_per_second, "samples"),
    ]
    if header.eta is not None and not header.is_finished:
        parts.append(f"ETA {wording.duration_range(header.eta.low_seconds, header.eta.high_seconds)}")
    if header.state == "running" and not header.is_driven:
        parts.append("no orchestrator drives it")
    if header.num_gpus:
        parts.append(f"{header.num_gpus} GPUs {wording.percent(header.gpu_busy_share)} busy")
    parts.append(f"{header.num_failed} failed, {header.num_unanswered} unanswered, {header.num_retries} retried")
    return f"{_stamp(header)} {wording.clean(header.campaign)} {header.state}: {', '.join(parts)}"


def _stamp(header: Header) -> str:
    return header.taken_at.strftime("%Y-%m-%dT%H:%M:%SZ")


def log_lines(before: Snapshot | None, now: Snapshot) -> list[str]:
    """What happened between two snapshots: events, oldest first, then the progress if it moved."""
    seen = max((event.sequence for event in before.events), default=0) if before else 0
    news = [event for event in reversed(now.events) if event.sequence > seen] if before else []
    hidden = len(news) - MOST_EVENTS
    lines = [f"{_stamp(now.header)} … {hidden} earlier events"] if hidden > 0 else []
    lines += [
        f"{event.at.strftime('%Y-%m-%dT%H:%M:%SZ')} {wording.clean(event.kind)}: {wording.clean(event.text)}"
        for event in news[-MOST_EVENTS:]
    ]
    if before is None or _moved(before.header, now.header):
        lines.append(progress_line(now.header))
    return lines


def _moved(before: Header, now: Header) -> bool:
    return (before.num_recorded, before.state) != (now.num_recorded, now.state)


def follow(
    fetch: Fetch,
    write: Callable[[str], None],
    *,
    interval_seconds: float = 10.0,
    stop: threading.Event | None = None,
) -> Snapshot:
    """Writes lines until the campaign is finished, or once more after `stop` is set; returns the last snapshot."""
    stop = stop or threading.Event()
    before: Snapshot | None = None
    while True:
        was_stopped = stop.is_set()
        now = fetch()
        for line in log_lines(before, now):
            write(line)
        before = now
        if now.header.is_finished or was_stopped:
            return now
        stop.wait(interval_seconds)
