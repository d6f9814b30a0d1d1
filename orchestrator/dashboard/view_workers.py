"""The workers: engine, state, shard, speed and cache use of each."""

from __future__ import annotations

from collections import Counter

from rich.text import Text

from orchestrator.dashboard import wording
from orchestrator.dashboard.sheet import Column, Lines, bar, fill, table, title
from orchestrator.dashboard.snapshot import Snapshot, WorkerView
from orchestrator.dashboard.state import ViewState, matches

_COLUMNS = (
    Column(title="worker", least=8, most=24, importance=9),
    Column(title="host", least=6, most=20, importance=2),
    Column(title="gpus", least=4, most=12, importance=5),
    Column(title="engine", least=10, most=30, importance=4),
    Column(title="state", least=8, importance=9),
    Column(title="shard", least=16, most=60, importance=7),
    Column(title="done", least=7, importance=6, right=True),
    Column(title="in flight", least=4, importance=1, right=True),
    Column(title="tok/s", least=5, importance=8, right=True),
    Column(title="KV", least=8, importance=3),
    Column(title="seen", least=4, importance=3, right=True),
)
_STYLES = {
    "busy": "green",
    "idle": "yellow",
    "starting": "cyan",
    "draining": "yellow",
    "lost": "bold red",
    "broken": "bold red",
}
_SILENT_SECONDS = 30.0
"""A heartbeat older than this is shown in red."""


def worker_lines(snapshot: Snapshot, state: ViewState, width: int, height: int) -> Lines:
    """Exactly `height` lines of `width` characters."""
    workers = [w for w in snapshot.workers if matches(state.text, w.name, w.host, w.engine, w.state, w.shard)]
    body = max(0, height - 2)
    offset = max(0, min(state.offset, len(workers) - body))
    shown = workers[offset : offset + body]
    lines = [title("Workers", _summary(workers, offset, len(shown)))]
    lines += table(_COLUMNS, [_row(worker) for worker in shown], width)
    return fill(lines, width, height)


def _summary(workers: list[WorkerView], offset: int, num_shown: int) -> str:
    states = ", ".join(f"{number} {name}" for name, number in sorted(Counter(w.state for w in workers).items()))
    rows = f" · {offset + 1}–{offset + num_shown} shown" if num_shown < len(workers) else ""
    return f"{states or 'none yet'}{rows}"


def _row(worker: WorkerView) -> list[Text | str]:
    busy = worker.shard_samples > 0
    return [
        wording.clean(worker.name),
        wording.clean(worker.host),
        worker.gpus,
        wording.clean(worker.engine),
        Text(worker.state, style=_STYLES.get(worker.state, "dim")),
        wording.clean(worker.shard) or wording.ABSENT,
        f"{worker.shard_done}/{worker.shard_samples}" if busy else wording.ABSENT,
        str(worker.num_in_flight),
        wording.ABSENT if worker.tokens_per_second is None else wording.short_count(worker.tokens_per_second),
        _cache_use(worker.kv_use),
        _seen(worker.heartbeat_age_seconds),
    ]


def _cache_use(share: float | None) -> Text:
    if share is None:
        return Text(wording.ABSENT, style="dim")
    return bar(share, 3, "yellow" if share > 0.9 else "blue") + Text(f"{share * 100:4.0f}%")


def _seen(age: float | None) -> Text:
    if age is None:
        return Text(wording.ABSENT, style="dim")
    text = f"{age:.0f}s" if age < 100 else f"{age / 60:.0f}m" if age < 6000 else f"{age / 3600:.0f}h"
    return Text(text, style="bold red" if age > _SILENT_SECONDS else "")
