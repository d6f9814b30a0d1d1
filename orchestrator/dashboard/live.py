"""The dashboard on a terminal: draws a frame when something changed, reacts to keys, follows the window's size."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from rich.console import Console, ConsoleDimensions
from rich.live import Live

from orchestrator.dashboard.keys import KeyReader
from orchestrator.dashboard.reader import Fetch, SnapshotReader
from orchestrator.dashboard.render import frame, picture
from orchestrator.dashboard.sheet import Lines
from orchestrator.dashboard.snapshot import Snapshot
from orchestrator.dashboard.state import ViewState, press

KEY_SECONDS = 0.1
"""How long a key press, or a new window size, may wait for its answer."""


def show(
    fetch: Fetch,
    console: Console,
    *,
    interval_seconds: float = 1.0,
    until_done: bool = False,
    stop: threading.Event | None = None,
    state: ViewState | None = None,
) -> Snapshot:
    """Shows the campaign until the viewer leaves (or it is finished, or `stop` is set); returns the last snapshot."""
    stop = stop or threading.Event()
    state = state or ViewState()
    with SnapshotReader(fetch, interval_seconds) as reader, KeyReader() as keys, _screen(console) as live:
        painter = _Painter(live)
        snapshot = reader.latest
        while not state.closed and not stop.is_set():
            snapshot = snapshot if state.paused else reader.latest
            painter.paint(snapshot, state, reader.notice)
            if until_done and snapshot.header.is_finished:
                break
            for key in keys.read(KEY_SECONDS):
                state = press(state, key, snapshot)
    return reader.latest


def _screen(console: Console) -> Live:
    return Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop")


def follow_terminal(console: Console) -> tuple[int, int]:
    """Columns and rows of the window that `console` writes to, which it takes over.

    Rich believes the variables COLUMNS and LINES where they are set, and those do not follow a resize.
    """
    with suppress(OSError):  # no terminal, or a file without a number
        columns, rows = os.get_terminal_size(console.file.fileno())
        if columns and rows:
            console.size = ConsoleDimensions(columns, rows)
    return console.size


class _Painter:
    """Makes a frame when there is something new, and sends it only when it looks different: quiet over a slow line."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._inputs: tuple[object, ...] = ()
        self._lines: Lines = []

    def paint(self, snapshot: Snapshot, state: ViewState, notice: str) -> None:
        width, height = follow_terminal(self._live.console)
        inputs = (id(snapshot), state, notice, width, height)
        if inputs == self._inputs:
            return
        lines = frame(snapshot, state, width, height, notice)
        if lines != self._lines or inputs[3:] != self._inputs[3:]:
            self._live.update(picture(lines), refresh=True)
        self._inputs, self._lines = inputs, lines


class Background:
    """The same view beside work in the main thread, as `frontier run` needs it.

    `on_quit` is called, in the viewer's thread, when a person presses q; the view stays until the block ends.
    """

    def __init__(
        self, fetch: Fetch, console: Console, on_quit: Callable[[], None], interval_seconds: float = 1.0
    ) -> None:
        self._stop = threading.Event()
        self._arguments = (fetch, console, on_quit, interval_seconds)
        self._thread = threading.Thread(target=self._run, name="dashboard", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def _run(self) -> None:
        fetch, console, on_quit, interval = self._arguments
        show(fetch, console, interval_seconds=interval, stop=self._stop)
        if not self._stop.is_set():
            on_quit()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(timeout=10)
