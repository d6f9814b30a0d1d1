"""`frontier watch`: look at a campaign from any machine that reaches its store. Looking changes nothing."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import CampaignArgument, JsonOption, StoreOption, store_url
from orchestrator.cli.output import PIPED_WIDTH, draws_screens, note, print_json

if TYPE_CHECKING:
    from orchestrator.dashboard.reader import Fetch

PLAIN_SECONDS = 10.0


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("watch", epilog="Example: frontier watch my-campaign --store postgresql://me@head/frontier")(watch)


def watch(
    name: CampaignArgument = None,
    store: StoreOption = None,
    interval: Annotated[
        float | None, typer.Option(min=0.1, help="Seconds between readings; 1 on a terminal, 10 elsewhere.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Print one picture and leave.")] = False,
    until_done: Annotated[bool, typer.Option("--until-done", help="Leave when the campaign is finished.")] = False,
    plain: Annotated[bool, typer.Option("--plain", help="Log lines instead of a screen.")] = False,
    web: Annotated[bool, typer.Option("--web", help="Show it in a browser of this machine.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of --web; 0 takes a free one.")] = 8321,
    as_json: JsonOption = False,
) -> None:
    """Watch a campaign live. Prints log lines when the output is no terminal; ? shows the keys."""
    from orchestrator.dashboard.read import SnapshotSource
    from orchestrator.store.session import open_store

    with open_store(store_url(store), create=False) as opened:
        fetch = SnapshotSource(opened, name)
        if as_json:
            print_json(fetch().as_json())
        elif web:
            _serve(fetch, interval or 2.0, port)
        elif once:
            _print_once(fetch)
        elif plain or not draws_screens():
            _follow(fetch, interval or PLAIN_SECONDS)
        else:
            _show(fetch, interval or 1.0, until_done)


def _print_once(fetch: Fetch) -> None:
    from rich.console import Console

    from orchestrator.dashboard.render import frame, picture
    from orchestrator.dashboard.state import ViewState

    console = Console()
    given = os.environ.get("COLUMNS", "")
    width, height = console.size if sys.stdout.isatty() else (int(given) if given.isdecimal() else 120, 40)
    console.width = width = max(1, min(width, PIPED_WIDTH))
    console.print(picture(frame(fetch(), ViewState(), width, height)[:-1]))


def _follow(fetch: Fetch, interval_seconds: float) -> None:
    from orchestrator.dashboard.plain import follow

    follow(fetch, lambda line: print(line, flush=True), interval_seconds=interval_seconds)


def _serve(fetch: Fetch, interval_seconds: float, port: int) -> None:
    from orchestrator.dashboard.reader import SnapshotReader
    from orchestrator.dashboard.web import server

    with SnapshotReader(fetch, interval_seconds) as reader, server(lambda: reader.latest, "127.0.0.1", port) as serving:
        note(f"http://127.0.0.1:{serving.server_address[1]}/ shows the campaign; Ctrl-C ends it")
        serving.serve_forever()


def _show(fetch: Fetch, interval_seconds: float, until_done: bool) -> None:
    from rich.console import Console

    from orchestrator.dashboard.live import show
    from orchestrator.dashboard.plain import progress_line

    last = show(fetch, Console(), interval_seconds=interval_seconds, until_done=until_done)
    print(progress_line(last.header))
