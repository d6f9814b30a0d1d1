"""Pools by name. The module of a pool is imported when it is asked for."""

from __future__ import annotations

from orchestrator.errors import UserError
from orchestrator.scheduler.pool import WorkerPool

POOLS = ("ray", "inline")


def make_pool(kind: str, *, workers: int | None = None, ray: str | None = None, engine: str = "vllm") -> WorkerPool:
    """The pool `kind` of at most `workers` engines; `ray` is the address of a cluster. Raises UserError."""
    if kind not in POOLS:
        raise UserError(f"pool is {kind!r}; it must be one of: {', '.join(POOLS)}")
    if kind == "inline":
        from orchestrator.scheduler.inline_pool import InlinePool

        return InlinePool(workers or 1)
    from orchestrator.scheduler.ray_pool import RayPool

    return RayPool(workers, address=ray, use_gpus=False if engine == "fake" else None)
