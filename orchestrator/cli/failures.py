"""`frontier failures`: what went wrong, what was done about it, and how to see it again."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from orchestrator.cli.options import JsonOption, StoreOption, store_url
from orchestrator.cli.output import note, print_json, print_table


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("failures", epilog="Example: frontier failures my-campaign --json")(failures)


def failures(
    name: Annotated[str | None, typer.Argument(help="The campaign; default: the newest.", metavar="[NAME]")] = None,
    store: StoreOption = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the latest.")] = 100,
    charged: Annotated[bool, typer.Option("--charged", help="Only those that cost a sample or a shard.")] = False,
    as_json: JsonOption = False,
) -> int:
    """List failures, newest first, with the command that reproduces a quarantined sample."""
    from orchestrator.store.session import open_store
    from orchestrator.store.views import failure_rows

    with open_store(store_url(store), create=False) as opened:
        rows = failure_rows(opened, name, limit=limit, charged_only=charged)
    if as_json:
        print_json([asdict(row) for row in rows])
        return 0
    if not rows:
        note("no failures")
        return 0
    columns = ("kind", "answer", "charged", "where", "cell", "sample", "worker", "message")
    print_table(
        columns,
        [
            (
                str(row.kind),
                row.answer,
                "yes" if row.charged else "",
                row.where,
                row.cell_key or "",
                "" if row.sample_index is None else str(row.sample_index),
                row.worker or "",
                row.message,
            )
            for row in rows
        ],
        right=("sample",),
    )
    for command in dict.fromkeys(row.reproduction for row in rows if row.reproduction):
        print(f"reproduce: {command}")
    return 0
