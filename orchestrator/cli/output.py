"""What commands print: tables for people, JSON for programs, notes on standard error.

Tables lose their colour, and are never cut, when the output is not a terminal.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.errors import UserError

DUMB = ("dumb", "unknown")
PIPED_WIDTH = 400
"""Characters a line may have where no terminal sets a limit."""


def console() -> Console:
    """Standard output; colour only on a terminal, and not under NO_COLOR."""
    return Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else PIPED_WIDTH)


def draws_screens() -> bool:
    """Whether standard input and output are a terminal that can be drawn on: TERM=dumb can only take lines."""
    return sys.stdout.isatty() and sys.stdin.isatty() and os.environ.get("TERM", "").lower() not in DUMB


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    print(json.dumps(value, indent=1, ensure_ascii=False, default=str))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str | Text]], right: Sequence[str] = ()) -> None:
    """A table; the columns named in `right` are set flush right."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console().print(table)


def made_folder(option: str, folder: Path) -> Path:
    """`folder`, made if it is absent. Raises UserError naming the option when it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise UserError(f"{option} {folder}: there is a file of that name; give a folder") from None
    except OSError as error:
        raise UserError(f"{option} {folder}: cannot make the folder: {error.strerror}") from None
    return folder


def note(text: str) -> None:
    """A remark on standard error, so that it never mixes with data; silent under --quiet."""
    if os.environ.get("FRONTIER_QUIET") != "1":
        print(text, file=sys.stderr)
