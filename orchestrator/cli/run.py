"""`frontier run`: create a campaign or continue it, and drive it to its end."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.options import JsonOption, StoreOption, store_url
from orchestrator.cli.output import draws_screens, note, print_json
from orchestrator.errors import UserError
from orchestrator.paths import data_folder

if TYPE_CHECKING:
    from orchestrator.domain.grid import Cell
    from orchestrator.domain.spec import CampaignSpec
    from orchestrator.scheduler.campaign import CampaignResult
    from orchestrator.store.session import Store

PLAIN_SECONDS = 5.0
POOLS = ("ray", "inline")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How a campaign is driven; not part of its identity."""

    ray: str | None
    workers: int | None
    pool: str
    engine: str
    grace_seconds: float
    wall_seconds: float | None
    plain: bool
    metrics_port: int | None


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("run", epilog="Example: frontier run examples/quickstart.yaml --workers 2")(run)


def run(
    spec: Annotated[Path, typer.Argument(help="The campaign file.", metavar="SPEC")],
    store: StoreOption = None,
    ray: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Ray cluster; default: a local one.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Engines at once; default: one a GPU, else one.")] = None,
    pool: Annotated[str, typer.Option(help="ray, or inline: one worker inside this process.")] = "ray",
    engine: Annotated[str, typer.Option(help="vllm, or fake: no model, for trying a campaign out.")] = "vllm",
    grace: Annotated[float, typer.Option(min=0, help="Seconds that a drain may take.")] = 20.0,
    wall_time: Annotated[float | None, typer.Option(min=1, help="Seconds after which to drain and leave.")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Log lines instead of the dashboard.")] = False,
    metrics_port: Annotated[
        int | None, typer.Option(min=0, max=65535, metavar="N", help="Serve Prometheus metrics of this run.")
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Create a campaign or continue it. Exit codes: 0 complete, 3 with failures, 2 bad input, 130 interrupted."""
    options = RunOptions(
        ray=ray,
        workers=workers,
        pool=_one_of("--pool", pool, POOLS),
        engine=_one_of("--engine", engine, _engines()),
        grace_seconds=grace,
        wall_seconds=wall_time,
        plain=plain or as_json or not draws_screens(),
        metrics_port=metrics_port,
    )
    from orchestrator.creation import prepare

    campaign, cells = prepare(spec)
    return _run(campaign, cells, store_url(store), options, as_json)


def _run(spec: CampaignSpec, cells: list[Cell], url: str, options: RunOptions, as_json: bool) -> int:
    from orchestrator.cli.status import show
    from orchestrator.cli.status_document import status_document
    from orchestrator.creation import create
    from orchestrator.scheduler.ray_address import check_address
    from orchestrator.store.session import open_store
    from orchestrator.store.views import campaign_snapshot

    if options.pool == "ray" and options.ray is not None:
        check_address(options.ray)  # before a campaign is written that nobody would drive
    with open_store(url) as store:
        create(store, spec, cells, options.engine)
        note(f"{spec.name}: {len(cells):,} cells, {sum(c.num_samples for c in cells):,} samples, store {store.url}")
        with _stdout_kept_clean() if options.plain else nullcontext(), _metrics_served(store, spec.name, options):
            result = _drive(store, spec.name, options)
        document = status_document(campaign_snapshot(store, spec.name))
    if as_json:
        print_json(document)
    else:
        show(document)
    _say_what_next(result)
    return result.exit_code


def _drive(store: Store, name: str, options: RunOptions) -> CampaignResult:
    """The loop in a thread of its own, the view and the signals in this one."""
    from orchestrator.scheduler.background import BackgroundRun
    from orchestrator.scheduler.pools import make_pool
    from orchestrator.scheduler.settings import LoopSettings

    pool = make_pool(options.pool, workers=options.workers, ray=options.ray, engine=options.engine)
    settings = LoopSettings(grace_seconds=options.grace_seconds, spool_folder=data_folder() / "spool")
    run = BackgroundRun(store, name, pool, settings, options.wall_seconds)
    with _signals_set(run.stop):
        run.start()
        _view(store, name, options, run.done)
        return run.result()


def _view(store: Store, name: str, options: RunOptions, done: threading.Event) -> None:
    """The dashboard, or log lines on standard error, until the loop ends. A broken view never stops a campaign."""
    from orchestrator.dashboard.plain import follow
    from orchestrator.dashboard.read import SnapshotSource

    fetch = SnapshotSource(store, name)
    try:
        if not options.plain:
            from rich.console import Console

            from orchestrator.dashboard.live import show

            show(fetch, Console(), until_done=True, stop=done)
        if not done.is_set():
            follow(fetch, note, interval_seconds=PLAIN_SECONDS, stop=done)
    except Exception as error:
        note(f"the view ended ({error}); the campaign goes on")


@contextmanager
def _metrics_served(store: Store, name: str, options: RunOptions) -> Iterator[None]:
    """Prometheus may ask this process while it runs, on FRONTIER_METRICS_HOST, by default of this machine only."""
    if options.metrics_port is None:
        yield
        return
    from orchestrator.dashboard.metrics import need_prometheus, serve
    from orchestrator.dashboard.read import SnapshotSource

    need_prometheus()
    host = os.environ.get("FRONTIER_METRICS_HOST", "127.0.0.1")
    server = serve(SnapshotSource(store, name), host, options.metrics_port)
    note(f"metrics: http://{host}:{server.server_port}/metrics")
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def _stdout_kept_clean() -> Iterator[None]:
    """What Ray and engines print goes to standard error, so that standard output holds our document alone."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


@contextmanager
def _signals_set(stop: threading.Event) -> Iterator[None]:
    """Ctrl-C and SIGTERM ask for a drain; a second Ctrl-C interrupts at once. Set after Ray, which sets its own."""

    def first(number: int, _: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        note("draining: what is in flight may finish; once more to leave at once")
        stop.set()

    before: dict[int, Callable[..., Any] | int | None] = {
        n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)
    }
    for number in before:
        signal.signal(number, first)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say_what_next(result: CampaignResult) -> None:
    name = result.header.name
    if result.interrupted:
        note("interrupted; the same command goes on where this one stopped")
    elif result.header.state == "cancelled":
        note(f"cancelled; what is recorded stays, and frontier requeue {name} takes up the rest")
    elif result.exit_code == 3:
        note(f"complete with failures; see: frontier failures {name}")
    else:
        note(f"complete; next: frontier results {name}, frontier report {name} --out DIR")


def _one_of(option: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise UserError(f"{option} is {value!r}; it must be one of: {', '.join(known)}")
    return value


def _engines() -> tuple[str, ...]:
    from workers.factory import engine_names

    return engine_names()
