"""How kernels are started: without compiling anew for every request, and while the one before drains.

The latter is programmatic dependent launch (Hopper and later). A kernel launched so must `wait` before it reads what an
earlier kernel wrote. All ours wait first and then let their successor start, so when a kernel passes its wait,
everything before it in the stream has finished.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
from __future__ import annotations

import os
from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl

CHANGING = [
    "length", "window", "num_queries", "num_rows", "num_row_tiles", "num_key_tiles", "num_splits", "tiles_per_split",
    "num_bands", "num_tiles", "num_blocks", "all_blocks", "first", "first_block", "first_head", "rows_each",
    "want", "want_0", "want_1", "forced_0", "forced_1", "top", "sinks", "local", "sink", "local_from",
]  # fmt: skip
"""Arguments that change from request to request: no kernel is compiled anew because one of them is 1 or a multiple of
16. Strides and sizes by which addresses become aligned are not among them."""


@triton.jit
def wait_and_release(EARLY: tl.constexpr):
    """Wait for the kernel before, then allow the kernel after to be launched. Nothing when not EARLY."""
    if EARLY:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()


@cache
def early_launch() -> bool:
    """Whether this device starts kernels early."""
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    return not interpreted and torch.cuda.is_available() and torch.cuda.get_device_capability()[0] >= 9


def launch_options() -> dict[str, Any]:
    """Launch keywords (and the kernel's EARLY) for kernels that call `wait_and_release`."""
    return {"EARLY": True, "launch_pdl": True} if early_launch() else {"EARLY": False}
