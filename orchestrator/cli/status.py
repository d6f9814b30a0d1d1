"""`frontier status`: where a campaign stands."""

from __future__ import annotations

from typing import Any

import typer

from orchestrator.cli.options import CampaignArgument, JsonOption, StoreOption, store_url
from orchestrator.cli.output import note, print_json, print_table

RIGHT = ("length", "n", "unscored", "score", "density prefill", "density decode", "kv kept", "tokens/s")


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("status", epilog="Example: frontier status quickstart --json")
    def status(
        name: CampaignArgument = None,
        store: StoreOption = None,
        as_json: JsonOption = False,
    ) -> None:
        """Show a campaign's progress and its table of cells."""
        from orchestrator.cli.status_document import status_document
        from orchestrator.store.session import open_store
        from orchestrator.store.views import campaign_snapshot

        with open_store(store_url(store), create=False) as opened:
            document = status_document(campaign_snapshot(opened, name))
        if as_json:
            print_json(document)
        else:
            show(document)


def show(document: dict[str, Any]) -> None:
    """The table of cells, and one line about the whole."""
    from orchestrator.cli.status_document import COLUMNS, cell_rows_of

    print_table(COLUMNS, cell_rows_of(document), right=RIGHT)
    samples = document["samples"]
    note(
        f"{document['campaign']}: {document['state']}, {samples['recorded']} of {samples['total']} samples, "
        f"{samples['unanswered']} unanswered, {samples['unscored']} unscored, "
        f"{document['engine_loads']} engine loads"
    )
