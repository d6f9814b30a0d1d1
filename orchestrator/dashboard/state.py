"""What the viewer has chosen to see. A key turns one state into the next; nothing here touches a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeVar

from orchestrator.dashboard.snapshot import CellView, Snapshot

T = TypeVar("T")


class View(StrEnum):
    """The pages of the dashboard, in the order of their number keys."""

    OVERVIEW = "overview"
    HEAT = "heat map"
    WORKERS = "workers"
    FAILURES = "failures"


class HeatColumns(StrEnum):
    """What the heat map's columns are."""

    TASK = "task"
    LENGTH = "length"


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewState:
    """One viewer's choices."""

    view: View = View.OVERVIEW
    columns: HeatColumns = HeatColumns.TASK
    model: str | None = None
    """None shows all models together."""
    task: str | None = None
    length_tokens: int | None = None
    text: str = ""
    """Only what contains this text is shown."""
    typing: bool = False
    """The filter text is being typed."""
    offset: int = 0
    """First line shown of a list that is longer than the screen."""
    paused: bool = False
    """The picture stands still; the campaign does not."""
    help: bool = False
    closed: bool = False


def press(state: ViewState, key: str, snapshot: Snapshot) -> ViewState:
    """The state after one key; unknown keys change nothing."""
    if state.typing:
        return _typed(state, key)
    if state.help and key != "ctrl-c":
        return replace(state, help=False)
    views = list(View)
    if key.isdigit() and 1 <= int(key) <= len(views):
        return replace(state, view=views[int(key) - 1], offset=0)
    if key in ("tab", "right", "left"):
        step = -1 if key == "left" else 1
        return replace(state, view=views[(views.index(state.view) + step) % len(views)], offset=0)
    if key in _SCROLLS:
        return replace(state, offset=max(0, state.offset + _SCROLLS[key]))
    return _command(state, key, snapshot)


_SCROLLS = {"down": 1, "j": 1, "up": -1, "k": -1, "page down": 10, "page up": -10, "home": -(10**9)}


def _command(state: ViewState, key: str, snapshot: Snapshot) -> ViewState:
    match key:
        case "q" | "ctrl-c":
            return replace(state, closed=True)
        case " " | "p":
            return replace(state, paused=not state.paused)
        case "?" | "h":
            return replace(state, help=True)
        case "/" | "f":
            return replace(state, typing=True, text="", offset=0)
        case "escape":
            return replace(state, text="", model=None, task=None, length_tokens=None, offset=0)
        case "c":
            other = HeatColumns.LENGTH if state.columns is HeatColumns.TASK else HeatColumns.TASK
            return replace(state, columns=other)
        case "m":
            return replace(state, model=_after(state.model, models(snapshot.cells)), offset=0)
        case "t":
            return replace(state, task=_after(state.task, tasks(snapshot.cells)), offset=0)
        case "l":
            return replace(state, length_tokens=_after(state.length_tokens, lengths(snapshot.cells)), offset=0)
    return state


def _typed(state: ViewState, key: str) -> ViewState:
    if key == "enter":
        return replace(state, typing=False)
    if key in ("escape", "ctrl-c"):
        return replace(state, typing=False, text="")
    if key == "backspace":
        return replace(state, text=state.text[:-1])
    if len(key) == 1 and key.isprintable():
        return replace(state, text=state.text + key)
    return state


def _after(current: T | None, values: Sequence[T]) -> T | None:
    """The value behind `current`; None (all) behind the last."""
    if current is None or current not in values:
        return values[0] if values and current is None else None
    place = values.index(current) + 1
    return values[place] if place < len(values) else None


def models(cells: Sequence[CellView]) -> list[str]:
    """Models of the grid, in its order."""
    return list(dict.fromkeys(cell.model for cell in cells))


def tasks(cells: Sequence[CellView]) -> list[str]:
    """Tasks of the grid, in its order."""
    return list(dict.fromkeys(cell.task for cell in cells))


def lengths(cells: Sequence[CellView]) -> list[int]:
    """Context lengths of the grid, ascending."""
    return sorted({cell.length_tokens for cell in cells})


def chosen_cells(state: ViewState, cells: Sequence[CellView]) -> list[CellView]:
    """The cells that pass every filter of the viewer."""
    return [
        cell
        for cell in cells
        if state.model in (None, cell.model)
        and state.task in (None, cell.task)
        and state.length_tokens in (None, cell.length_tokens)
        and matches(state.text, cell.model, cell.method, cell.budget, cell.task)
    ]


def matches(text: str, *values: str) -> bool:
    """Whether every word of `text` occurs in one of `values`; case does not matter."""
    whole = "\n".join(values).lower()
    return all(word in whole for word in text.lower().split())
