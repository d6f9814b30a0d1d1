"""Runs the Triton kernels' tests in a fresh process under Triton's CPU interpreter."""

from __future__ import annotations

from pathlib import Path

from tests.support.interpreted import run_interpreted


def test_triton_kernels_match_their_definitions_in_the_interpreter() -> None:
    run_interpreted(Path(__file__).parent / "interpreted")
