"""`frontier events`: the log of a campaign."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer

from orchestrator.cli.options import JsonOption, StoreOption, store_url
from orchestrator.cli.output import print_json, print_table


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("events", epilog="Example: frontier events my-campaign --limit 50")(events)


def events(
    name: Annotated[str | None, typer.Argument(help="The campaign; default: the newest.", metavar="[NAME]")] = None,
    store: StoreOption = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the latest.")] = 200,
    after: Annotated[int, typer.Option(min=0, help="Only events with a greater id.")] = 0,
    as_json: JsonOption = False,
) -> int:
    """List every change of a state, a lease or a worker, oldest first."""
    from orchestrator.store.session import open_store
    from orchestrator.store.views import event_rows

    with open_store(store_url(store), create=False) as opened:
        rows = event_rows(opened, name, limit=limit, after=after)[::-1]
    if as_json:
        print_json([asdict(row) for row in rows])
        return 0
    print_table(
        ("id", "time (UTC)", "event", "shard", "attempt", "worker", "message"),
        [
            (
                str(row.id),
                datetime.fromtimestamp(row.at, UTC).strftime("%m-%d %H:%M:%S.%f")[:-3],
                row.kind,
                "" if row.shard_id is None else str(row.shard_id),
                "" if row.attempt_id is None else str(row.attempt_id),
                row.worker or "",
                row.message,
            )
            for row in rows
        ],
        right=("id", "shard", "attempt"),
    )
    return 0
