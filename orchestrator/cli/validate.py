"""`frontier validate`: is this campaign file right, and what does it ask for?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.options import JsonOption
from orchestrator.cli.output import console, note, print_json

if TYPE_CHECKING:
    pass


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("validate", epilog="Example: frontier validate campaign.yaml")(validate)


def validate(
    spec: Annotated[Path, typer.Argument(help="The campaign file.", metavar="SPEC")], as_json: JsonOption = False
) -> None:
    """Check a campaign file and count its grid. Nothing is run or stored."""
    from orchestrator.domain.spec_file import load_cells
    from orchestrator.domain.task_room import misfits
    from orchestrator.models.resolve import describe_model

    campaign, cells = load_cells(spec, describe_model)
    for line in misfits(cells):
        note(f"warning: {line}")
    facts = summary(campaign.name, cells)
    if as_json:
        print_json({"spec": str(spec), **facts})
        return
    lines = [f"{spec} is valid: campaign {facts['name']}"]
    lines += [f"  {axis:8} {', '.join(map(str, facts[axis]))}" for axis in ("models", "methods", "tasks", "lengths")]
    lines.append(f"  {facts['num_cells']:,} cells, {facts['num_samples']:,} samples")
    lines.append(f"next: frontier plan {spec}")
    console().print("\n".join(lines))


def summary(name: str, cells: Sequence[Any]) -> dict[str, Any]:
    """What the grid holds, as JSON: names of each axis, `num_cells`, `num_samples`."""
    return {
        "name": name,
        "models": _distinct(cell.model_name for cell in cells),
        "methods": _distinct(cell.method_label for cell in cells),
        "tasks": _distinct(cell.task_label for cell in cells),
        "lengths": _distinct(cell.length_tokens for cell in cells),
        "seeds": _distinct(cell.seed for cell in cells),
        "num_cells": len(cells),
        "num_samples": sum(cell.num_samples for cell in cells),
    }


def _distinct(values: Any) -> list[Any]:
    return list(dict.fromkeys(values))
