"""Real and random models for tests."""

from __future__ import annotations

import os
from pathlib import Path

from orchestrator.models.pull import pull


def smollm2_folder() -> Path:
    """SmolLM2-135M-Instruct as a Hugging Face folder, pulled once into the user's model cache."""
    chosen = os.environ.get("FRONTIER_TEST_SMOLLM2")
    return Path(chosen) if chosen else pull("smollm2-135m")
