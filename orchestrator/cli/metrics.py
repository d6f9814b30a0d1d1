"""`frontier metrics`: a campaign's figures for Prometheus, from any machine that reaches the store."""

from __future__ import annotations

import threading
from typing import Annotated

import typer

from orchestrator.cli.options import CampaignArgument, StoreOption, store_url
from orchestrator.cli.output import note


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("metrics", epilog="Example: frontier metrics quickstart --port 9469")(metrics)


def metrics(
    name: CampaignArgument = None,
    store: StoreOption = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 9469,
    host: Annotated[str, typer.Option(help="Address to serve on; 0.0.0.0 for every network.")] = "127.0.0.1",
    cells: Annotated[bool, typer.Option(help="A score for every cell; leave out for grids of many thousands.")] = True,
    once: Annotated[bool, typer.Option("--once", help="Print one scrape and leave.")] = False,
) -> None:
    """Serve a campaign's progress, speed, failures and scores to Prometheus. Reads only."""
    from orchestrator.dashboard.metrics import exposition, need_prometheus, serve
    from orchestrator.dashboard.read import SnapshotSource
    from orchestrator.store.session import open_store

    need_prometheus()
    with open_store(store_url(store), create=False) as opened:
        fetch = SnapshotSource(opened, name)
        fetch()  # an unknown campaign is told before anything is served
        if once:
            print(exposition(fetch, with_cells=cells), end="")
            return
        server = serve(fetch, host, port, with_cells=cells)
        note(f"http://{host}:{server.server_port}/metrics shows the campaign; Ctrl-C ends it")
        try:
            threading.Event().wait()
        finally:
            server.shutdown()
            server.server_close()
