"""Lines of text of an exact width: cut, padded, set side by side; and tables whose columns give way.

Rich's own tables wrap or squeeze; here a line never wraps, and the columns that matter least disappear first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from orchestrator.dashboard.wording import clean

Lines = list[Text]
GAP = 2
"""Blank characters between two columns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of a table."""

    title: str
    least: int
    """Characters below which the column is of no use."""
    most: int = 200
    importance: int = 1
    """Columns of the lowest importance disappear first where the width does not suffice."""
    right: bool = False


def fit(text: Text | str, width: int, *, right: bool = False) -> Text:
    """`text` cut with an ellipsis or padded to exactly `width` characters, without control characters."""
    line = text.copy() if isinstance(text, Text) else Text(text)
    if not line.plain.isprintable():
        line = Text(clean(line.plain), style=line.style)
    line.truncate(max(0, width), overflow="ellipsis")
    missing = max(0, width - line.cell_len)
    if right:
        line.pad_left(missing)
    else:
        line.pad_right(missing)
    line.no_wrap = True
    return line


def fill(lines: Sequence[Text], width: int, height: int) -> Lines:
    """Exactly `height` lines of exactly `width` characters; what is too much is left out."""
    fitted = [fit(line, width) for line in lines[:height]]
    return fitted + [fit("", width) for _ in range(height - len(fitted))]


def beside(left: Lines, right: Lines, width: int, left_width: int) -> Lines:
    """Two blocks side by side, the shorter one padded below."""
    height = max(len(left), len(right))
    rows = zip(fill(left, left_width, height), fill(right, max(0, width - left_width - GAP), height), strict=True)
    return [first + Text(" " * GAP) + second for first, second in rows]


def title(text: str, note: str = "", width: int = 0) -> Text:
    """A block's heading, with a note in plain style behind it."""
    line = Text(text, style="bold")
    if note:
        line.append(f"  {note}", style="dim not bold")
    return fit(line, width) if width else line


def table(columns: Sequence[Column], rows: Sequence[Sequence[Text | str]], width: int) -> Lines:
    """A heading and one line a row. A column is as wide as its content, within its bounds and the width at hand."""
    wanted = [_content_width(column, [row[i] for row in rows]) for i, column in enumerate(columns)]
    kept = _keep(columns, wanted, width)
    widths = _shrink([columns[i] for i in kept], [wanted[i] for i in kept], width)
    heading = _join([fit(columns[i].title, w, right=columns[i].right) for i, w in zip(kept, widths, strict=True)])
    heading.stylize("dim")
    body = (_join([fit(row[i], w, right=columns[i].right) for i, w in zip(kept, widths, strict=True)]) for row in rows)
    return [heading, *body]


def _content_width(column: Column, content: Sequence[Text | str]) -> int:
    texts = (text if isinstance(text, Text) else Text(text) for text in content)
    longest = max((text.cell_len for text in texts), default=0)
    return max(column.least, len(column.title), min(longest, column.most))


def _keep(columns: Sequence[Column], wanted: Sequence[int], width: int) -> list[int]:
    kept = list(range(len(columns)))
    while len(kept) > 1 and sum(_least(columns[i], wanted[i]) + GAP for i in kept) - GAP > width:
        kept.remove(min(kept, key=lambda i: (columns[i].importance, -i)))
    return kept


def _least(column: Column, wanted: int) -> int:
    return min(wanted, max(column.least, len(column.title)))


def _shrink(columns: Sequence[Column], wanted: Sequence[int], width: int) -> list[int]:
    """Takes what is too much from the column with most room to give."""
    widths = list(wanted)
    excess = sum(widths) + GAP * (len(widths) - 1) - width
    while excess > 0:
        room = [w - _least(c, n) for c, n, w in zip(columns, wanted, widths, strict=True)]
        widest = max(range(len(widths)), key=lambda i: room[i])
        if room[widest] <= 0:
            break
        widths[widest] -= 1
        excess -= 1
    return widths


def _join(cells: Sequence[Text]) -> Text:
    return Text(" " * GAP).join(cells)


def bar(share: float, width: int, style: str = "green") -> Text:
    """A progress bar of exactly `width` characters, in steps of an eighth."""
    eighths = int(max(0.0, min(1.0, share)) * width * 8)
    full, rest = divmod(eighths, 8)
    filled = "█" * full + (" ▏▎▍▌▋▊▉"[rest] if rest and full < width else "")
    line = Text("").append(filled, style=style)
    line.append("░" * (width - len(filled)), style="dim")
    return line
