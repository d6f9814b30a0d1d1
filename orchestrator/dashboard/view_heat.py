"""The heat map: scores by method × budget, filling in as the campaign runs."""

from __future__ import annotations

from collections.abc import Sequence

from rich.style import Style
from rich.text import Text

from orchestrator.dashboard import wording
from orchestrator.dashboard.heat import HeatMap, Tally, heat_map, short_names, tally
from orchestrator.dashboard.sheet import Lines, fill, fit, title
from orchestrator.dashboard.snapshot import CellView, Snapshot
from orchestrator.dashboard.state import HeatColumns, ViewState, chosen_cells

_SHADES = ("440154", "482878", "3e4989", "31688e", "26828e", "1f9e89", "35b779", "6ece58", "b5de2b", "fde725")
"""Viridis in ten steps: even in lightness, readable without red or green."""
_FIRST_DARK_TEXT = 5
_LEAST_COLUMN = 5
_MOST_COLUMN = 11
_LEGEND = "87 score in %   87▃ so far, share done   ▃ running, no score yet   · waiting   ✗ failed"


def heat_lines(snapshot: Snapshot, state: ViewState, width: int, height: int) -> Lines:
    """Exactly `height` lines of `width` characters."""
    cells = chosen_cells(state, snapshot.cells)
    if not cells:
        return fill([title("Scores", "no cell passes the filter; Esc clears it")], width, height)
    lines = _page(cells, state, state.columns, width, height - 1)
    other = _other(state.columns)
    if len(lines) + 4 <= height - 1 - len(lines):
        lines += [fit("", width), *_page(cells, state, other, width, height - 2 - len(lines))]
    lines += [fit("", width)] * (height - 1 - len(lines))
    return fill([*lines, _footnote(tally(cells), width)], width, height)


def _other(columns: HeatColumns) -> HeatColumns:
    return HeatColumns.LENGTH if columns is HeatColumns.TASK else HeatColumns.TASK


def _page(cells: Sequence[CellView], state: ViewState, columns: HeatColumns, width: int, height: int) -> Lines:
    """One map with its heading, at most `height` lines, scrolled to the viewer's place."""
    picture = heat_map(cells, columns)
    body = height - 2
    offset = max(0, min(state.offset, len(picture.rows) - body))
    shown = picture.rows[offset : offset + body]
    heading = title("Scores", _scope(state, columns, len(picture.rows), offset, len(shown)), width)
    return [heading, *_map_lines(picture, shown, width)]


def _scope(state: ViewState, columns: HeatColumns, num_rows: int, offset: int, num_shown: int) -> str:
    chosen = [
        state.model or "all models",
        state.task or "all tasks",
        wording.length(state.length_tokens) if state.length_tokens else "all lengths",
    ]
    rows = f" · rows {offset + 1}–{offset + num_shown} of {num_rows}" if num_shown < num_rows else ""
    return f"by {columns} · {' · '.join(chosen)}{rows}"


def _map_lines(picture: HeatMap, rows: tuple[tuple[str, str], ...], width: int) -> Lines:
    method_width = min(max(6, *(len(method) for method, _ in picture.rows)), max(8, width // 5))
    budget_width = min(max(6, *(len(budget) for _, budget in picture.rows)), 10)
    left = method_width + 1 + budget_width + 1
    names = _column_names(picture)
    num_columns = min(len(names) + 1, max(1, (width - left) // _LEAST_COLUMN))
    each = min(_MOST_COLUMN, (width - left) // num_columns)
    visible = picture.columns[: num_columns - 1]
    heading = fit("method", method_width) + " " + fit("budget", budget_width, right=True) + " "
    for name in [*names[: len(visible)], "all"]:
        heading.append_text(fit(name, each - 1, right=True) + " ")
    heading.stylize("dim")
    return [heading, *(_row(picture, row, visible, method_width, budget_width, each) for row in rows)]


def _column_names(picture: HeatMap) -> list[str]:
    if all(isinstance(column, int) for column in picture.columns):
        return [wording.length(int(column)) for column in picture.columns]
    return short_names([str(column) for column in picture.columns])


def _row(
    picture: HeatMap, row: tuple[str, str], columns: tuple[str | int, ...], method: int, budget: int, each: int
) -> Text:
    line = fit(wording.clean(row[0]), method) + " " + fit(wording.clean(row[1]), budget, right=True) + " "
    for column in columns:
        line.append_text(_field(picture.tallies.get((row, column)), each - 1) + " ")
    return line.append_text(_field(picture.totals[row], each - 1) + " ")


def _field(cell: Tally | None, width: int) -> Text:
    """One place of the map: a score with its shade, the share done, or why there is neither."""
    if cell is None:
        return fit("", width)
    mark = " " if cell.done_share >= 1 else _eighth(cell.done_share)
    if cell.score is None:
        return _empty_field(cell, width)
    digits = 1 if width >= 7 else 0
    text = fit(f"{cell.score * 100:.{digits}f}{mark}", width, right=True)
    text.stylize(_shade(cell.score))
    return text


def _empty_field(cell: Tally, width: int) -> Text:
    if cell.num_failed and cell.num_failed >= cell.num_recorded:
        return fit(Text("✗ ", style="bold red"), width, right=True)
    if cell.num_leased_shards or cell.num_recorded:
        return fit(Text(_eighth(cell.done_share), style="cyan"), width, right=True)
    return fit(Text("· ", style="dim"), width, right=True)


def _eighth(share: float) -> str:
    return "▁▂▃▄▅▆▇"[min(6, int(share * 7))]


def _shade(score: float) -> Style:
    step = min(len(_SHADES) - 1, max(0, int(score * len(_SHADES))))
    return Style(color="#000000" if step >= _FIRST_DARK_TEXT else "#ffffff", bgcolor=f"#{_SHADES[step]}")


def _footnote(total: Tally, width: int) -> Text:
    numbers = (
        f"{wording.short_count(total.num_scored)} scored, {wording.short_count(total.num_unanswered)} of them "
        f"unanswered; {wording.short_count(total.num_failed)} failed, left out"
    )
    if len(numbers) + 3 + len(_LEGEND) <= width:
        return fit(Text(f"{_LEGEND}   {numbers}", style="dim"), width)
    return fit(Text(numbers if width < len(_LEGEND) else _LEGEND, style="dim"), width)
