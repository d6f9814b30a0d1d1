"""`frontier verify`: prove that a campaign is complete and that nothing in it is doubtful."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from orchestrator.cli.options import JsonOption, StoreOption, store_url
from orchestrator.cli.output import print_json

EXIT_NOT_PROVEN = 1


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("verify", epilog="Example: frontier verify my-campaign")(verify)


def verify(
    name: Annotated[str | None, typer.Argument(help="The campaign; default: the newest.", metavar="[NAME]")] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> int:
    """Check every index, attempt, identity and counter; print a hash of the result. Exit codes: 0 proven, 1 not."""
    from orchestrator.store.session import open_store
    from orchestrator.store.verify import verify_campaign

    with open_store(store_url(store), create=False) as opened:
        proof = verify_campaign(opened, name)
    if as_json:
        print_json({**asdict(proof), "proven": proof.is_proven})
    else:
        print(f"{proof.name}: {proof.num_recorded:,} of {proof.num_samples:,} samples in {proof.num_cells:,} cells")
        print(f"recorded as failures: {proof.num_failed:,}")
        for problem in proof.problems:
            print(f"problem: {problem}")
        print(f"manifest: {proof.manifest}")
        print("proven" if proof.is_proven else "NOT proven")
    return 0 if proof.is_proven else EXIT_NOT_PROVEN
