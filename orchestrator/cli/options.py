"""Options and settings that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.address import config_file, mask_password, mask_passwords, store_url
from orchestrator.errors import UserError

__all__ = [
    "CampaignArgument",
    "JsonOption",
    "StoreOption",
    "campaigns_here",
    "config_file",
    "mask_password",
    "mask_passwords",
    "store_url",
]

StoreOption = Annotated[
    str | None,
    typer.Option("--store", metavar="URL", help="SQLite file, or postgresql:// URL; else FRONTIER_STORE."),
]


def campaigns_here(incomplete: str) -> list[str]:
    """Names for the shell's completion, from the store that a command without --store would use."""
    from orchestrator.store.session import open_store
    from orchestrator.store.views import campaign_names

    try:
        with open_store(store_url(None), create=False) as store:
            return [name for name in campaign_names(store) if name.startswith(incomplete)]
    except UserError:
        return []


CampaignArgument = Annotated[
    str | None,
    typer.Argument(help="Campaign; default: the newest.", metavar="NAME", autocompletion=campaigns_here),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
