"""Where this package keeps its files on a machine."""

from __future__ import annotations

import os
from pathlib import Path

HOME_VARIABLE = "FRONTIER_HOME"


def home_folder() -> Path:
    """FRONTIER_HOME, else a folder in the user's home."""
    chosen = os.environ.get(HOME_VARIABLE)
    return Path(chosen).expanduser().absolute() if chosen else Path.home() / ".local" / "share" / "frontier"
