"""`frontier track`: scores of cells into MLflow or Weights & Biases."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli.options import CampaignArgument, JsonOption, StoreOption, store_url
from orchestrator.cli.output import note, print_json


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("track", epilog="Example: frontier track quickstart --to mlflow --at http://127.0.0.1:5000")(track)


def track(
    name: CampaignArgument = None,
    to: Annotated[str, typer.Option(help="mlflow or wandb.")] = "mlflow",
    at: Annotated[str | None, typer.Option(metavar="URI", help="The tracker's address, if not its default.")] = None,
    project: Annotated[str, typer.Option(help="MLflow's experiment, or W&B's project.")] = "frontier",
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write each cell's scores, densities and speed into an experiment tracker. Again replaces, never doubles."""
    from orchestrator.analysis.tracking import cell_records, open_tracker
    from orchestrator.cli.status_document import status_document
    from orchestrator.store.session import open_store
    from orchestrator.store.views import campaign_snapshot

    with open_store(store_url(store), create=False) as opened:
        document = status_document(campaign_snapshot(opened, name))
    records = cell_records(document)
    with open_tracker(to, project, at) as tracker:
        for record in records:
            tracker.log(record)
    left = len(document["cells"]) - len(records)
    if as_json:
        print_json({"campaign": document["campaign"], "tracker": to, "cells_logged": len(records), "cells_left": left})
    else:
        note(f"{document['campaign']}: {len(records)} cells written to {to}, {left} without an outcome left out")
