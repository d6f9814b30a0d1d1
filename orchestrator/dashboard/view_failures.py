"""What went wrong and what happened last."""

from __future__ import annotations

from rich.text import Text

from orchestrator.dashboard import wording
from orchestrator.dashboard.sheet import Column, Lines, fill, fit, table, title
from orchestrator.dashboard.snapshot import EventView, FailureView, Snapshot
from orchestrator.dashboard.state import ViewState, matches

_FAILURES = (
    Column(title="time", least=8, importance=8),
    Column(title="kind", least=12, importance=9),
    Column(title="where", least=14, most=56, importance=5),
    Column(title="then", least=8, importance=3),
    Column(title="message", least=20, most=160, importance=7),
)
_EVENTS = (
    Column(title="time", least=8, importance=8),
    Column(title="event", least=8, most=22, importance=7),
    Column(title="", least=20, most=180, importance=9),
)
_BAD_EVENTS = ("fail", "lost", "crash", "quarantin", "expired", "refused", "out_of_memory")


def failure_page(snapshot: Snapshot, state: ViewState, width: int, height: int) -> Lines:
    """Failures above, events below; exactly `height` lines of `width` characters."""
    failures = [f for f in snapshot.failures if matches(state.text, f.kind, f.place, f.message)]
    num_failures = min(len(failures) + 2, max(5, (height - 1) * 3 // 5)) if failures else 1
    lines = _failure_lines(snapshot, failures, state.offset, width, num_failures)
    lines.append(fit("", width))
    return fill([*lines, *event_lines(snapshot, state, width, height - len(lines))], width, height)


def _failure_lines(snapshot: Snapshot, failures: list[FailureView], offset: int, width: int, height: int) -> Lines:
    heading = title("Failures", _counts(snapshot), width)
    if not failures:
        return [heading]
    body = max(0, height - 2)
    first = max(0, min(offset, len(failures) - body))
    rows = [_failure_row(failure) for failure in failures[first : first + body]]
    return fill([heading, *table(_FAILURES, rows, width)], width, height)


def _counts(snapshot: Snapshot) -> str:
    if not snapshot.failure_counts:
        return "none so far"
    return " · ".join(f"{c.kind} {wording.count(c.num)}" for c in snapshot.failure_counts)


def _failure_row(failure: FailureView) -> list[Text | str]:
    return [
        wording.clock(failure.at),
        Text(wording.clean(failure.kind), style="red"),
        wording.clean(failure.place),
        wording.clean(failure.consequence),
        wording.clean(failure.message),
    ]


def event_lines(snapshot: Snapshot, state: ViewState, width: int, height: int) -> Lines:
    """The latest events, newest first, under a heading."""
    events = [e for e in snapshot.events if matches(state.text, e.kind, e.text)]
    if not events:
        return fill(
            [title("Events", "none so far" if not snapshot.events else "none passes the filter")], width, height
        )
    rows = [_event_row(event) for event in events[: max(0, height - 1)]]
    lines = table(_EVENTS, rows, width)
    lines[0] = title("Events", "newest first", width)
    return fill(lines, width, height)


def _event_row(event: EventView) -> list[Text | str]:
    bad = any(word in event.kind.lower() for word in _BAD_EVENTS)
    kind = Text(wording.clean(event.kind), style="red" if bad else "cyan")
    return [wording.clock(event.at), kind, wording.clean(event.text)]
