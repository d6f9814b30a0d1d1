"""The drawing loop, the background reader and the plain log lines, without a terminal."""

from __future__ import annotations

import io
import threading
import time
from dataclasses import replace

import pytest
from rich.console import Console

from orchestrator.dashboard import wording
from orchestrator.dashboard.live import Background, show
from orchestrator.dashboard.plain import follow, log_lines
from orchestrator.dashboard.reader import STORE_SHARE, SnapshotReader
from orchestrator.dashboard.snapshot import EventView, Snapshot
from tests.support import snapshots


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=80, height=24, color_system="truecolor")


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_view_leaves_when_the_campaign_is_finished() -> None:
    console = terminal()
    last = show(snapshots.finished, console, until_done=True)
    assert last.header.is_finished
    assert "sparse-frontier-v1" in written(console)


def test_nothing_is_sent_while_nothing_changes() -> None:
    console, stop, snapshot = terminal(), threading.Event(), snapshots.running()
    thread = threading.Thread(target=lambda: show(lambda: snapshot, console, interval_seconds=0.01, stop=stop))
    thread.start()
    time.sleep(0.4)
    size = len(written(console))
    time.sleep(0.3)
    assert len(written(console)) == size
    stop.set()
    thread.join(5)
    assert not thread.is_alive()


def test_the_screen_is_never_cleared_between_frames() -> None:
    console, numbers, snapshot = terminal(), iter(range(1000)), snapshots.running()

    def fetch() -> Snapshot:
        number = next(numbers)
        state = "complete" if number > 3 else "running"
        return replace(snapshot, header=replace(snapshot.header, num_recorded=number, state=state))

    show(fetch, console, interval_seconds=0.01, until_done=True)
    text = written(console)
    assert text.count("\x1b[H") >= 2
    assert "\x1b[2J" not in text


def test_a_lost_store_keeps_the_last_picture_and_says_so() -> None:
    calls: list[int] = []

    def fetch() -> Snapshot:
        calls.append(1)
        if len(calls) > 1:
            raise OSError("connection refused\nlong driver text")
        return snapshots.running()

    with SnapshotReader(fetch, 0.01) as reader:
        deadline = time.monotonic() + 5
        while not reader.notice and time.monotonic() < deadline:
            time.sleep(0.01)
    assert reader.latest.header.campaign == "sparse-frontier-v1"
    assert reader.notice.endswith("connection refused")


def test_a_slow_store_is_asked_less_often() -> None:
    def fetch() -> Snapshot:
        time.sleep(0.02)
        return snapshots.running()

    reader = SnapshotReader(fetch, 0.1)
    reader._read_once()
    assert reader.pause_seconds >= 0.02 * (1 / STORE_SHARE - 1)


def test_an_unreachable_store_is_an_error_at_the_start() -> None:
    def fetch() -> Snapshot:
        raise OSError("no such store")

    with pytest.raises(OSError, match="no such store"):
        SnapshotReader(fetch, 1.0)


def test_the_background_view_ends_with_its_block() -> None:
    quits: list[int] = []
    console = terminal()
    with Background(snapshots.running, console, lambda: quits.append(1), interval_seconds=0.01):
        time.sleep(0.2)
    assert "sparse-frontier-v1" in written(console)
    assert not quits


def test_plain_lines_tell_every_event_once_and_the_progress_when_it_moves() -> None:
    first = snapshots.running()
    event = EventView(at=snapshots.NOW, kind="worker joined", text="w99", sequence=5000)
    second = replace(
        first, events=(event, *first.events), header=replace(first.header, num_recorded=first.header.num_recorded + 1)
    )
    assert len(log_lines(None, first)) == 1
    assert log_lines(first, first) == []
    assert [line.split(" ", 1)[1][:18] for line in log_lines(first, second)] == [
        "worker joined: w99",
        "sparse-frontier-v1",
    ]


def test_plain_output_ends_with_the_campaign() -> None:
    lines: list[str] = []
    states = iter([snapshots.running(), snapshots.finished()])
    follow(lambda: next(states), lines.append, interval_seconds=0.0)
    assert "running: 45.2 % (78181/172800 samples)" in lines[0]
    assert "complete: 100.0 %" in lines[-1]
    assert all("\x1b" not in line and "\n" not in line for line in lines)


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0 %"), (0.001, "<1 %"), (0.5, "50 %"), (0.9999, "99 %"), (1.0, "100 %"), (None, "–")],
)
def test_a_share_is_never_rounded_to_all_or_nothing(share: float | None, text: str) -> None:
    assert wording.percent(share) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (1000, "1k"), (78_181, "78.2k"), (999_999, "1M"), (172_800_000, "173M"), (2.5e9, "2.5G")],
)
def test_counts_are_short(number: float, text: str) -> None:
    assert wording.short_count(number) == text


@pytest.mark.parametrize(
    ("per_second", "text"),
    [
        (None, "– samples/s"),
        (1.324, "1.32 samples/s"),
        (0.05, "3 samples/min"),
        (0.001, "3.6 samples/h"),
        (250, "250 samples/s"),
    ],
)
def test_rates_choose_a_readable_unit(per_second: float | None, text: str) -> None:
    assert wording.rate(per_second, "samples") == text
