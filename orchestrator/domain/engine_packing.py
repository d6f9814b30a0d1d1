"""Fit the engines that are still to be loaded into the time that GPUs have left, with few loads.

A *window* is some GPUs of one node for some seconds: those that are free now until the end, and those that a kind of
engine will not need to the end. A *piece* is one load of one kind with the work that it does. Pieces are placed largest
first into the window that they fill best and are cut where none holds them whole; each cut is one load more. Since the
order decides how many cuts there are, many are tried, each a change of the best so far (the same ones each time).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from orchestrator.domain.placement import Demand

NUM_ORDERS = 200
SPREADS = (0.05, 0.15, 0.3, 0.6)
"""Of a whole window: how far an order departs from the best so far, standard deviations."""


@dataclass(frozen=True, slots=True)
class Window:
    """GPUs side by side on one node, from some moment until the end."""

    width: int
    seconds: float
    place: str
    """The node, or the kind whose engine is there until then."""
    is_free: bool
    """Now, so that a piece in it starts at once."""
    gpu_type: str | None = None
    """None: not known."""
    priority: int | None = None
    """Of the kind that makes way; nothing below it may follow."""
    seconds_left: float | None = None
    """Until the GPUs are taken away; not worth a load that takes half of it."""
    offset: float = 0.0
    """Seconds from the moment at which the GPUs become free to this window's beginning: others come before."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Work for one load."""

    demand: Demand
    seconds: float
    """Without the load."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A piece, or part of one, in its window."""

    demand: Demand
    gpus: int
    seconds: float
    window: Window

    @property
    def starts_now(self) -> bool:
        return self.window.is_free

    @property
    def end(self) -> float:
        """Seconds from the moment at which the GPUs become free, its load included."""
        return self.window.offset + self.seconds + self.demand.load_seconds


@dataclass(frozen=True, slots=True)
class Packing:
    """All that found a place, and what did not."""

    placed: tuple[Placed, ...]
    left_over: float
    """GPU-seconds of work without a place: so much the campaign ends later."""
    idle: float
    """GPU-seconds of windows that are free now and stay empty."""

    def score(self, grain: float) -> tuple[float, int, float]:
        """Smaller is better: work without a place (in steps of `grain`), then loads, then idle GPUs."""
        return (self.left_over // grain, len(self.placed), self.idle)


def pack(pieces: Sequence[Piece], windows: Sequence[Window], *, least_seconds: float) -> Packing:
    """The best packing of those tried. `least_seconds`: no part of a piece is shorter."""
    longest = max((w.seconds for w in windows), default=0.0)
    if not pieces or longest <= 0:
        return _in_order(pieces, windows, least_seconds)
    grain = max(longest * 0.01, 1e-9)
    keys = [-piece.seconds / longest for piece in pieces]
    best = _in_order(_sorted(pieces, keys), windows, least_seconds)
    rng = random.Random(len(pieces))
    for attempt in range(NUM_ORDERS):
        if best.score(grain)[:2] <= (0, len(pieces)):
            break
        other = [key + rng.gauss(0.0, SPREADS[attempt % len(SPREADS)]) for key in keys]
        found = _in_order(_sorted(pieces, other), windows, least_seconds)
        if found.score(grain) <= best.score(grain):
            best, keys = found, other
    return best


def _sorted(pieces: Sequence[Piece], keys: Sequence[float]) -> list[Piece]:
    """Higher priorities first, then larger gangs, then by key."""
    order = sorted(
        range(len(pieces)),
        key=lambda i: (-pieces[i].demand.priority, -smallest_gang(pieces[i].demand), keys[i]),
    )
    return [pieces[i] for i in order]


def smallest_gang(demand: Demand) -> int:
    """GPUs of one engine; the smallest of its sizes where types differ."""
    return min(demand.gpus.values(), default=1) or 1


def _in_order(pieces: Sequence[Piece], windows: Sequence[Window], least: float) -> Packing:
    open_windows, stack = list(windows), list(reversed(pieces))
    placed: list[Placed] = []
    left_over = 0.0
    while stack:
        piece = stack.pop()
        chosen = _choose_window(piece, open_windows, least)
        if chosen is None:
            left_over += piece.seconds * smallest_gang(piece.demand)
            continue
        window, gpus = chosen
        part = min(piece.seconds, _room(window, piece))
        placed.append(Placed(piece.demand, gpus, part, window))
        open_windows.remove(window)
        open_windows += _rests(window, gpus, part + piece.demand.load_seconds, least)
        rest = piece.seconds - part
        if rest > least:
            stack.append(Piece(piece.demand, rest))
        else:
            left_over += rest * gpus
    return Packing(tuple(placed), left_over, sum(w.width * w.seconds for w in open_windows if w.is_free))


def _choose_window(piece: Piece, windows: Sequence[Window], least: float) -> tuple[Window, int] | None:
    """The window that the piece fills best, free ones first; if none holds it whole, the longest."""
    best: tuple[tuple[float, ...], Window, int] | None = None
    for window in windows:
        gpus = _gang_in(window, piece.demand)
        room = _room(window, piece)
        if gpus is None or gpus > window.width or room <= 0 or room < min(least, piece.seconds):
            continue
        if window.seconds_left is not None and window.seconds_left <= 2 * piece.demand.load_seconds:
            continue
        over = room - piece.seconds
        if over >= 0:
            key = (0.0, float(over > least and window.width != gpus), over, float(not window.is_free), window.width)
        else:
            key = (1.0, 0.0, -room, float(not window.is_free), window.width)
        if best is None or key < best[0]:
            best = (key, window, gpus)
    return None if best is None else (best[1], best[2])


def _room(window: Window, piece: Piece) -> float:
    """Seconds of work in the window, after the load."""
    return window.seconds - piece.demand.load_seconds


def _gang_in(window: Window, demand: Demand) -> int | None:
    if window.priority is not None and demand.priority < window.priority:
        return None
    return smallest_gang(demand) if window.gpu_type is None else demand.gang_size(window.gpu_type)


def _rests(window: Window, gpus: int, seconds: float, least: float) -> list[Window]:
    """What a piece leaves: the GPUs beside it, and its own afterwards."""
    rests = [replace(window, width=window.width - gpus)] if window.width > gpus else []
    left = window.seconds - seconds
    if left > least:
        rests.append(replace(window, width=gpus, seconds=left, offset=window.offset + seconds, is_free=False))
    return rests
