"""A snapshot and a viewer's choices as one frame: exactly `height` lines of exactly `width` characters."""

from __future__ import annotations

from datetime import timedelta

from rich.console import Group
from rich.text import Text

from orchestrator.dashboard import wording
from orchestrator.dashboard.sheet import Lines, bar, fill, fit, title
from orchestrator.dashboard.snapshot import Header, Snapshot
from orchestrator.dashboard.state import View, ViewState
from orchestrator.dashboard.view_failures import failure_page
from orchestrator.dashboard.view_heat import heat_lines
from orchestrator.dashboard.view_overview import overview_lines
from orchestrator.dashboard.view_workers import worker_lines

LEAST_WIDTH, LEAST_HEIGHT = 40, 10
_STATE_STYLES = {"running": "green", "complete": "bold green", "paused": "yellow", "cancelled": "bold red"}
_PAGES = {
    View.OVERVIEW: overview_lines,
    View.HEAT: heat_lines,
    View.WORKERS: worker_lines,
    View.FAILURES: failure_page,
}
_HELP = (
    ("1 2 3 4, Tab", "overview, heat map, workers, failures and events"),
    ("c", "heat map: columns are tasks or lengths"),
    ("m  t  l", "next model, task, length; after the last, all of them"),
    ("/", "show only what contains the words typed; Enter keeps them"),
    ("Esc", "clear every filter"),
    ("↑ ↓ PgUp PgDn", "scroll a long list"),
    ("Space", "hold the picture still; the campaign goes on"),
    ("q", "leave; the campaign goes on where it runs"),
)


def frame(snapshot: Snapshot, state: ViewState, width: int, height: int, notice: str = "") -> Lines:
    """The whole screen. `notice` (for example that the store is away) replaces the key line."""
    if width < LEAST_WIDTH or height < LEAST_HEIGHT:
        return fill([Text(f"{LEAST_WIDTH}×{LEAST_HEIGHT} needed")], width, height)
    header = header_lines(snapshot.header, width)
    room = height - len(header) - 2
    body = _help_lines(width, room) if state.help else _PAGES[state.view](snapshot, state, width, room)
    return [*header, _rule(state, width), *body, _footer(state, width, notice)]


def picture(lines: Lines) -> Group:
    """What rich prints for `lines`: no wrapping, no cutting."""
    return Group(*lines)


def header_lines(header: Header, width: int) -> Lines:
    """Three lines: who and when, how far, how fast."""
    return [_identity(header, width), _progress(header, width), _pace(header, width)]


def _identity(header: Header, width: int) -> Text:
    line = Text(wording.clean(header.campaign), style="bold")
    line.append(f"  {header.state}", style=_STATE_STYLES.get(header.state, "yellow"))
    if header.started_at is not None:
        until = header.finished_at if header.is_finished and header.finished_at else header.taken_at
        line.append(f"  for {wording.duration((until - header.started_at).total_seconds())}", style="dim")
    clock = header.taken_at.strftime("%Y-%m-%d %H:%M:%S UTC")
    right = f"{wording.clean(header.store)}  {clock}"
    room = width - line.cell_len - 2
    if len(right) > room:
        right = clock if len(clock) <= room else ""
    return fit(line, width - len(right)) + Text(right, style="dim")


def _progress(header: Header, width: int) -> Text:
    text = f" {wording.percent(header.done_share, 1)}  {wording.count(header.num_recorded)}"
    text += f" of {wording.count(header.num_samples)} samples"
    return bar(header.done_share, max(5, width - len(text) - 1)) + Text(" ") + fit(text, min(len(text), width - 6))


def _pace(header: Header, width: int) -> Text:
    parts = [*_speed(header), *_devices(header), *_losses(header)]
    line = Text("")
    for part in parts:
        if line.cell_len + part.cell_len + 3 <= width:
            line.append_text(Text(" · ", style="dim") if line.cell_len else Text("")).append_text(part)
    return fit(line, width)


def _speed(header: Header) -> list[Text]:
    if header.is_finished:
        return [Text(header.state, style="bold")]
    if header.state == "running" and not header.is_driven:
        return [Text("no orchestrator drives it; `frontier run` takes it up", style="bold red")]
    return [Text(wording.rate(header.samples_per_second, "samples")), _eta(header)]


def _eta(header: Header) -> Text:
    if header.eta is None:
        return Text("ETA not known yet", style="dim")
    line = Text(f"ETA {wording.duration_range(header.eta.low_seconds, header.eta.high_seconds)}", style="bold")
    return line


def _devices(header: Header) -> list[Text]:
    if not header.num_gpus:
        return [Text(f"{header.num_busy_workers} of {header.num_workers} workers busy")] if header.num_workers else []
    return [Text(f"{header.num_gpus} GPUs {wording.percent(header.gpu_busy_share)} busy")]


def _losses(header: Header) -> list[Text]:
    failed = Text(f"{wording.count(header.num_failed)} failed", style="bold red" if header.num_failed else "")
    parts = [failed]
    if header.num_retries:
        parts.append(Text(f"{wording.count(header.num_retries)} retried"))
    if header.num_unanswered:
        share = header.num_unanswered / max(1, header.num_scored)
        parts.append(Text(f"{wording.percent(share, 1)} unanswered"))
    if header.tokens_per_second:
        parts.append(Text(f"{wording.short_count(header.tokens_per_second)} tok/s"))
    if header.eta is not None and header.is_driven and not header.is_finished:
        parts.append(Text(f"by {_finish_day(header)} UTC", style="dim"))
    return parts


def _finish_day(header: Header) -> str:
    assert header.eta is not None
    latest = header.taken_at + timedelta(seconds=header.eta.high_seconds)
    return latest.strftime("%a %d %b %H:%M")


def _rule(state: ViewState, width: int) -> Text:
    line = Text("──", style="dim")
    for number, view in enumerate(View, 1):
        chosen = view is state.view and not state.help
        line.append(f" {number} {view} ", style="bold reverse" if chosen else "not dim")
        line.append("─", style="dim")
    if state.paused:
        line.append(" held still ", style="bold black on yellow")
    if state.text and not state.typing:
        line.append(f" only “{wording.clean(state.text)}” ", style="bold yellow")
    line.append("─" * max(0, width - line.cell_len), style="dim")
    return fit(line, width)


def _footer(state: ViewState, width: int, notice: str) -> Text:
    if state.typing:
        return fit(Text(f"filter: {wording.clean(state.text)}▏  Enter keeps it, Esc clears it", style="bold"), width)
    if notice:
        return fit(Text(wording.clean(notice), style="bold black on yellow"), width)
    keys = "1–4 views   / filter   m model   t task   l length   c columns   Space hold   ? help   q quit"
    if len(keys) > width:
        keys = "1–4 views  / filter  m t l c choose  Space hold  ? help  q quit"
    return fit(Text(keys, style="dim"), width)


def _help_lines(width: int, height: int) -> Lines:
    lines = [title("Keys", "any key goes back"), Text("")]
    for keys, meaning in _HELP:
        lines.append(fit(Text(f"  {keys}", style="bold"), 20) + Text(meaning))
    return fill(lines, width, height)
