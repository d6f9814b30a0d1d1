"""What `frontier methods new` and `frontier tasks new` have in common."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.output import console, print_json

if TYPE_CHECKING:
    from orchestrator.skeletons.write import Skeleton

OutOption = Annotated[
    Path | None, typer.Option("--out", metavar="PATH", help="Folder to write; default: the package's name.")
]


def report_skeleton(skeleton: Skeleton, out: Path | None, as_json: bool) -> None:
    """Write the package and say what comes next. Raises UserError for a bad name or a folder that is there."""
    from orchestrator.skeletons.write import write

    folder = out or Path(skeleton.package.replace("_", "-"))
    files = write(skeleton, folder)
    if as_json:
        print_json({"folder": str(folder), "files": [str(file) for file in files]})
        return
    lines = [*(f"wrote {file}" for file in files), f"next: pip install --editable {folder}", f"      pytest {folder}"]
    console().print("\n".join(lines), soft_wrap=True)
