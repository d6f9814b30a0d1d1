"""The same frames in a browser: read-only, for `frontier watch --web`. No file is served and nothing can be changed."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from rich.console import Console
from rich.terminal_theme import MONOKAI

from orchestrator.dashboard.render import LEAST_HEIGHT, LEAST_WIDTH, frame, picture
from orchestrator.dashboard.snapshot import Snapshot
from orchestrator.dashboard.state import HeatColumns, View, ViewState, lengths, models, tasks

MOST_WIDTH, MOST_HEIGHT = 300, 120
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>frontier watch</title>
<meta name="viewport" content="width=device-width"><style>
body { background: #1b1b1b; color: #ddd; font: 14px/1.25 "DejaVu Sans Mono", Menlo, Consolas, monospace; margin: 1em }
pre { font: inherit; margin: 1em 0; overflow: hidden } nav * { font: inherit; margin-right: .7em }
a { color: #8cf } select, input { background: #333; color: #ddd; border: 1px solid #555 }
</style></head><body><nav id="nav"></nav><pre id="frame">…</pre><script>
const state = new URLSearchParams(location.hash.slice(1));
const views = VIEWS, nav = document.getElementById("nav"), frame = document.getElementById("frame");
function set(name, value) { value ? state.set(name, value) : state.delete(name); location.hash = state; draw(); }
function choice(name, values, all) {
  const box = document.createElement("select"); box.title = name; box.add(new Option(all, ""));
  for (const value of values) box.add(new Option(value, value));
  box.value = state.get(name) || ""; box.onchange = () => set(name, box.value); nav.append(box);
}
async function build() {
  const names = await (await fetch("names.json")).json();
  for (const view of views) {
    const link = document.createElement("a"); link.href = "#"; link.textContent = view;
    link.onclick = event => { event.preventDefault(); set("view", view); }; nav.append(link);
  }
  choice("model", names.models, "all models"); choice("task", names.tasks, "all tasks");
  choice("length", names.lengths, "all lengths"); choice("columns", ["length"], "columns: tasks");
  const box = document.createElement("input"); box.placeholder = "filter"; box.value = state.get("text") || "";
  box.oninput = () => set("text", box.value); nav.append(box);
}
async function draw() {
  const width = Math.floor((innerWidth - 32) / 8.43), height = Math.floor((innerHeight - 90) / 17.5);
  const query = new URLSearchParams(state); query.set("width", width); query.set("height", height);
  try { frame.innerHTML = await (await fetch("frame?" + query)).text(); }
  catch (error) { document.title = "frontier watch: no answer"; }
}
build(); draw(); setInterval(draw, 2000); onresize = draw;
</script></body></html>
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"

Latest = Callable[[], Snapshot]


def state_of(query: dict[str, list[str]]) -> ViewState:
    """The viewer's choices from an address; what is not understood is left at its default."""
    given = {name: values[0] for name, values in query.items()}
    length = given.get("length", "")
    return ViewState(
        view=View(given["view"]) if given.get("view") in list(View) else View.OVERVIEW,
        columns=HeatColumns.LENGTH if given.get("columns") == "length" else HeatColumns.TASK,
        model=given.get("model"),
        task=given.get("task"),
        length_tokens=int(length) if length.isdigit() else None,
        text=given.get("text", "")[:100],
    )


def frame_html(snapshot: Snapshot, query: dict[str, list[str]]) -> str:
    """One frame as HTML with colours; whatever stands in names and messages is escaped."""
    width = _number(query, "width", 120, LEAST_WIDTH, MOST_WIDTH)
    height = _number(query, "height", 40, LEAST_HEIGHT, MOST_HEIGHT)
    console = Console(width=width, height=height, record=True, file=io.StringIO(), color_system="truecolor")
    # The last line tells keys, which a browser has no use for.
    console.print(picture(frame(snapshot, state_of(query), width, height + 1)[:-1]))
    return console.export_html(theme=MONOKAI, inline_styles=True, code_format="{code}")


def _number(query: dict[str, list[str]], name: str, default: int, least: int, most: int) -> int:
    text = query.get(name, [""])[0]
    return min(most, max(least, int(text))) if text.isdigit() else default


def names(snapshot: Snapshot) -> dict[str, list[str]]:
    """What the page's menus offer."""
    return {
        "models": models(snapshot.cells),
        "tasks": tasks(snapshot.cells),
        "lengths": [str(length) for length in lengths(snapshot.cells)],
    }


def answer(path: str, latest: Latest) -> tuple[HTTPStatus, str, str]:
    """Status, content type and body for an address."""
    parts = urlsplit(path)
    match parts.path:
        case "/":
            return HTTPStatus.OK, "text/html", PAGE.replace("VIEWS", json.dumps([str(view) for view in View]))
        case "/frame":
            return HTTPStatus.OK, "text/html", frame_html(latest(), parse_qs(parts.query))
        case "/names.json":
            return HTTPStatus.OK, "application/json", json.dumps(names(latest()))
        case "/snapshot.json":
            return HTTPStatus.OK, "application/json", json.dumps(latest().as_json())
    return HTTPStatus.NOT_FOUND, "text/plain", "no such page"


def server(latest: Latest, host: str, port: int) -> ThreadingHTTPServer:
    """A server that shows `latest()`; port 0 takes a free one."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, kind, text = answer(self.path, latest)
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Security-Policy", POLICY)
            self.send_header("X-Content-Type-Options", "nosniff")
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Requests are not worth a line on the terminal."""

    return ThreadingHTTPServer((host, port), Handler)
