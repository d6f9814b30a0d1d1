"""`frontier --verbose`: what the program does, as it does it, on standard error."""

from __future__ import annotations

import logging
import sys

from orchestrator.cli.options import mask_passwords

PACKAGES = ("orchestrator", "workers")
"""Whose remarks are shown; other packages keep their own levels."""


class _Masked(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return mask_passwords(super().format(record))


def show_remarks() -> None:
    """Print every remark of our packages from level INFO on, with its time."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Masked("%(asctime)s %(message)s", "%H:%M:%S"))
    for name in PACKAGES:
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.handlers = [handler]
        logger.propagate = False
