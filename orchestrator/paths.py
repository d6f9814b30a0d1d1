"""Where frontier keeps its files."""

from __future__ import annotations

import os
from pathlib import Path


def data_folder() -> Path:
    """Folder of stores, models and caches: FRONTIER_HOME, or a folder in the user's home."""
    chosen = os.environ.get("FRONTIER_HOME")
    return Path(chosen).expanduser().absolute() if chosen else Path.home() / ".local" / "share" / "frontier"


def models_folder() -> Path:
    """Folder that holds one Hugging Face model folder for each pulled model."""
    return data_folder() / "models"
