"""The hosts of a Ray cluster as the placement sees them, and the options that pin an engine to one of them.

An engine is one actor that holds all its GPUs, so Ray cannot split it; the node is chosen by us, because Ray spreads
small gangs and then has no room for large ones.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from orchestrator.domain.placement import Node

TYPE_PREFIX = "accelerator_type:"


def gpu_nodes(ray: Any, own: Mapping[str, int], draining: Collection[str]) -> list[Node]:
    """Living hosts with GPUs. `own` counts the GPUs of our engines by node id, those included that Ray has not placed
    yet; `draining` holds (beginnings of) node ids."""
    available = _available(ray)
    nodes = []
    for row in ray.nodes():
        total = int(row["Resources"].get("GPU", 0))
        if not row["Alive"] or not total:
            continue
        node_id = row["NodeID"]
        left = int(available[node_id].get("GPU", 0)) if node_id in available else total
        free = max(0, min(left, total - own.get(node_id, 0)))
        nodes.append(
            Node(
                name=node_id,
                gpu_type=_gpu_type(row["Resources"]),
                num_gpus=total,
                num_free=free,
                draining=any(node_id.startswith(start) for start in draining),
            )
        )
    return nodes


def pin(node_id: str) -> dict[str, Any]:
    """Actor options: on this node or nowhere."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node_id, soft=False)} if node_id else {}


def _available(ray: Any) -> Mapping[str, Mapping[str, float]]:
    """Free resources by node id; empty when this Ray does not tell (the call is private)."""
    try:
        from ray._private.state import available_resources_per_node

        found: Mapping[str, Mapping[str, float]] = available_resources_per_node()
        return found
    except Exception:
        return {}


def _gpu_type(resources: Mapping[str, float]) -> str:
    return next((key.removeprefix(TYPE_PREFIX) for key in resources if key.startswith(TYPE_PREFIX)), "")
