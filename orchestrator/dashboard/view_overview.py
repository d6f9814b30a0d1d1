"""The overview: how far each model, method and task is, and what happened last."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.text import Text

from orchestrator.dashboard import wording
from orchestrator.dashboard.heat import Tally
from orchestrator.dashboard.sheet import GAP, Column, Lines, bar, beside, fill, fit, table
from orchestrator.dashboard.snapshot import CellView, Snapshot
from orchestrator.dashboard.state import ViewState, chosen_cells
from orchestrator.dashboard.view_failures import event_lines
from orchestrator.dashboard.view_workers import worker_lines

_WIDE = 120
_BAR = 16


def overview_lines(snapshot: Snapshot, state: ViewState, width: int, height: int) -> Lines:
    """Exactly `height` lines of `width` characters."""
    cells = chosen_cells(state, snapshot.cells)
    if width < _WIDE:
        return fill(_narrow(snapshot, state, cells, width, height), width, height)
    left = (width - GAP) // 2
    right = width - GAP - left
    progress = fill(_progress(cells, left, height), left, height)
    num_workers = min(len(snapshot.workers) + 2, max(4, height // 2))
    news = [*worker_lines(snapshot, state, right, num_workers), fit("", right)]
    news += event_lines(snapshot, state, right, height - len(news))
    return beside(progress, news, width, left)


def _narrow(snapshot: Snapshot, state: ViewState, cells: Sequence[CellView], width: int, height: int) -> Lines:
    """Progress above, the last events below; both get their share of a small screen."""
    num_events = max(3, min(6, height // 4))
    upper = _progress(cells, width, height - num_events - 1)
    lower = event_lines(snapshot, state, width, height - len(upper) - 1)
    return [*upper, fit("", width), *lower]


def _progress(cells: Sequence[CellView], width: int, height: int) -> Lines:
    """Blocks by model, method and task; when lines are short, every block keeps its unfinished ones first."""
    groups = [("Models", _by(cells, lambda c: c.model)), ("Methods", _by(cells, lambda c: c.method))]
    groups.append(("Tasks", _by(cells, lambda c: c.task)))
    label_width = max((len(name) for _, tallies in groups for name in tallies), default=0)
    room = _shares([len(tallies) for _, tallies in groups], height - 2 * len(groups) + 1)
    lines: Lines = []
    for (name, tallies), num_rows in zip(groups, room, strict=True):
        if num_rows > 0:
            lines += [fit("", width)] * bool(lines) + _block(name, tallies, num_rows, label_width, width)
    return lines[:height]


def _by(cells: Sequence[CellView], name: Callable[[CellView], str]) -> dict[str, Tally]:
    groups: dict[str, Tally] = {}
    for cell in cells:
        groups.setdefault(name(cell), Tally()).add(cell)
    return groups


def _shares(wanted: Sequence[int], room: int) -> list[int]:
    """Lines for each block: one after another takes one more until the room or the wish ends."""
    given = [0] * len(wanted)
    while room > 0 and any(g < w for g, w in zip(given, wanted, strict=True)):
        for i, most in enumerate(wanted):
            if given[i] < most and room > 0:
                given[i] += 1
                room -= 1
    return given


def _block(name: str, tallies: dict[str, Tally], num_rows: int, label_width: int, width: int) -> Lines:
    hidden = len(tallies) - num_rows
    chosen = list(tallies.items())
    if hidden > 0:
        open_first = sorted(chosen, key=lambda item: item[1].done_share >= 1)[:num_rows]
        chosen = [item for item in chosen if item in open_first]
    columns = (
        Column(title=name if hidden <= 0 else f"{name} (+{hidden})", least=min(label_width, width // 3), importance=9),
        Column(title="", least=_BAR, importance=3),
        Column(title="done", least=5, importance=8, right=True),
        Column(title="samples", least=13, importance=2, right=True),
        Column(title="score", least=5, importance=7, right=True),
        Column(title="failed", least=6, importance=5, right=True),
    )
    return table(columns, [_block_row(label, total) for label, total in chosen], width)


def _block_row(label: str, total: Tally) -> list[Text | str]:
    score = wording.ABSENT if total.score is None else f"{total.score * 100:.1f}"
    return [
        wording.clean(label),
        bar(total.done_share, _BAR),
        wording.percent(total.done_share),
        f"{wording.short_count(total.num_recorded)}/{wording.short_count(total.num_samples)}",
        score,
        Text(wording.short_count(total.num_failed), style="red" if total.num_failed else "dim"),
    ]
