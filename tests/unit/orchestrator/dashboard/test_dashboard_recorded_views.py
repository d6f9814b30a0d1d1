"""Every view at three sizes, compared with recorded text; `FRONTIER_RECORD=1` records it anew."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.dashboard.render import frame
from orchestrator.dashboard.snapshot import Snapshot
from orchestrator.dashboard.state import HeatColumns, View, ViewState
from tests.support import snapshots

EXPECTED = Path(__file__).parent / "expected"
SIZES = ((80, 24), (120, 40), (200, 60))
PAGES = {
    **{view.name.lower(): (snapshots.running, ViewState(view=view)) for view in View},
    "heat_by_length": (
        snapshots.running,
        ViewState(view=View.HEAT, columns=HeatColumns.LENGTH, model="Qwen2.5-14B-Instruct"),
    ),
    "help": (snapshots.running, ViewState(help=True)),
    "filtered": (snapshots.running, ViewState(view=View.HEAT, text="quest 512", paused=True)),
    "waiting": (snapshots.waiting, ViewState()),
    "finished": (snapshots.finished, ViewState(view=View.HEAT)),
}


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("page", PAGES)
def test_a_view_looks_as_recorded(page: str, size: tuple[int, int]) -> None:
    make, state = PAGES[page]
    text = "\n".join(line.plain.rstrip() for line in frame(make(), state, *size)) + "\n"
    path = EXPECTED / f"{page}_{size[0]}x{size[1]}.txt"
    if os.environ.get("FRONTIER_RECORD") == "1":
        path.write_text(text)
    assert text == path.read_text(), f"{path.name} differs; FRONTIER_RECORD=1 records the new look"


def _nasty() -> Snapshot:
    """Names that are too long, wide, or try to steer the terminal."""
    snapshot = snapshots.running()
    wide = "模型" * 30 + "\x1b[31m\n"
    header = replace(snapshot.header, campaign=wide, store="x" * 300, num_samples=10**12)
    cells = tuple(replace(c, model=wide, method=wide, budget=wide, task=wide + c.task) for c in snapshot.cells[:40])
    workers = tuple(replace(w, name=wide, host=wide, shard=wide, state=wide) for w in snapshot.workers)
    failures = tuple(replace(f, kind=wide, message=wide, place=wide) for f in snapshot.failures)
    events = tuple(replace(e, kind=wide, text=wide) for e in snapshot.events)
    return replace(snapshot, header=header, cells=cells, workers=workers, failures=failures, events=events)


@pytest.mark.parametrize("make", [snapshots.running, snapshots.waiting, snapshots.finished, _nasty])
@pytest.mark.parametrize("view", list(View))
def test_every_line_fills_the_width_exactly_at_any_size(make: object, view: View) -> None:
    snapshot = make()  # type: ignore[operator]
    for width, height in ((40, 10), (61, 13), (80, 24), (97, 31), (119, 24), (120, 24), (133, 50), (200, 60)):
        for state in (ViewState(view=view), ViewState(view=view, offset=10**9, text="q", typing=True)):
            lines = frame(snapshot, state, width, height)
            assert [line.cell_len for line in lines] == [width] * height
            assert all(line.plain.isprintable() for line in lines)


def test_a_window_that_is_too_small_says_what_it_needs() -> None:
    lines = frame(snapshots.running(), ViewState(), 20, 5)
    assert lines[0].plain.startswith("40×10 needed")
    assert [line.cell_len for line in lines] == [20] * 5
