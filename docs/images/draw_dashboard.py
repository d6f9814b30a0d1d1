"""Draws docs/images/dashboard.svg from the tests' fixed snapshot: `python docs/images/draw_dashboard.py`."""

from __future__ import annotations

import io
import re
from pathlib import Path

from rich.console import Console

from orchestrator.dashboard.render import frame, picture
from orchestrator.dashboard.state import View, ViewState
from tests.support import snapshots

WIDTH, HEIGHT = 110, 34
TITLE = "frontier watch (layout example: every number in it is made up)"


def svg() -> str:
    """The heat map of one model in the middle of a campaign."""
    console = Console(width=WIDTH, height=HEIGHT, record=True, file=io.StringIO(), color_system="truecolor")
    state = ViewState(view=View.HEAT, model="Qwen2.5-14B-Instruct")
    console.print(picture(frame(snapshots.running(), state, WIDTH, HEIGHT)))
    text = console.export_svg(title=TITLE, unique_id="dashboard")
    # Rich names a font on a web server; a picture in a repository should not call anybody.
    text = re.sub(r"@font-face \{.*?\}\s*", "", text, flags=re.DOTALL)
    return text.replace("Fira Code", "DejaVu Sans Mono").replace(
        "<!-- Generated with Rich https://www.textualize.io -->", ""
    )


if __name__ == "__main__":
    target = Path(__file__).with_name("dashboard.svg")
    target.write_text(svg(), encoding="utf-8")
    print(f"wrote {target}")
