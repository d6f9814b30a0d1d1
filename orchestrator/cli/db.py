"""`frontier db`: the store's schema."""

from __future__ import annotations

import typer

from orchestrator.cli.options import StoreOption, store_url
from orchestrator.cli.output import note

app = typer.Typer(help="The store's schema.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """The store's schema."""


@app.command("upgrade", epilog="Example: frontier db upgrade --store postgresql://user@host/frontier")
def upgrade(store: StoreOption = None) -> None:
    """Create the store, or bring its schema to this version's revision; nothing stored is lost."""
    from orchestrator.store.session import open_store

    with open_store(store_url(store)) as opened:
        note(f"store {opened.url} is up to date")
