"""Every benchmark can be reached by its command from any folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cli.bench import BENCHMARKS

FRONTIER = Path(sys.executable).parent / "frontier"


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_tells_its_options(name: str, tmp_path: Path) -> None:
    done = subprocess.run([FRONTIER, "bench", name, "--help"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


def test_modes_of_a_campaign_change_engine_settings_alone() -> None:
    from benchmarks.campaign_modes import changed_spec

    text = "name: c\nmodels: [small, {source: big, options: {block_size: 32}}]\nsamples: 5\n"
    assert changed_spec(text, "production", None)["models"] == [
        {"source": "small"},
        {"source": "big", "options": {"block_size": 32}},
    ]
    slow = changed_spec(text, "reference", 2)
    assert slow["samples"] == 2
    assert [m["max_in_flight"] for m in slow["models"]] == [1, 1]
    assert slow["models"][1]["options"] == {
        "block_size": 32, "enforce_eager": True, "enable_prefix_caching": False, "async_scheduling": False,
    }  # fmt: skip
