"""The dashboard in a cell of a notebook, or as lines on standard error, beside a run in this process."""

from __future__ import annotations

import sys
import threading
from typing import Any

from orchestrator.dashboard.plain import follow as follow_lines
from orchestrator.dashboard.reader import Fetch
from orchestrator.dashboard.snapshot import Snapshot
from orchestrator.dashboard.web import frame_html

WIDTH, HEIGHT = 100, 22
STYLE = "background:#1b1b1b;color:#ddd;font:13px/1.25 monospace;padding:.7em;overflow-x:auto;white-space:pre"
PAGE_SECONDS, LINE_SECONDS = 1.0, 5.0


def is_here() -> bool:
    """Whether this process is the kernel of a notebook. Imports nothing: a kernel has IPython loaded."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


def page(snapshot: Snapshot) -> str:
    """The dashboard's first page as HTML; what stands in names and messages is escaped."""
    frame = frame_html(snapshot, {"width": [str(WIDTH)], "height": [str(HEIGHT)]})
    return f'<pre style="{STYLE}">{frame}</pre>'


def follow(fetch: Fetch, *, as_page: bool, stop: threading.Event) -> None:
    """Shows the campaign until `stop`. A view that breaks is told, and no reason to disturb the campaign."""
    try:
        if as_page:
            _follow_page(fetch, stop)
        else:
            follow_lines(fetch, _tell, interval_seconds=LINE_SECONDS, stop=stop)
    except Exception as error:
        _tell(f"the view ended ({error}); the campaign goes on")


def _follow_page(fetch: Fetch, stop: threading.Event) -> None:
    from IPython.display import HTML, display

    handle: Any = display(HTML(page(fetch())), display_id=True)
    while not stop.wait(PAGE_SECONDS):
        handle.update(HTML(page(fetch())))
    handle.update(HTML(page(fetch())))


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
