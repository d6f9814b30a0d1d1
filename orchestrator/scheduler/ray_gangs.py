"""GPUs of an engine that spans several Ray nodes: one placement group, and the actor that runs the engine inside it.

The group has a bundle for the actor (CPUs only, on the first node) and a bundle of one GPU for each of the engine's
ranks, every one pinned to the node that we chose. vLLM finds the group that its process is in and starts its ranks
there (`distributed_executor_backend="ray"`), those of the first node first, so that each tensor-parallel group lies
on one node wherever it fits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

NODE_ID = "ray.io/node-id"
"""Label that Ray gives each of its nodes."""
SEES_ALL_GPUS = {"RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1"}
"""The actor holds no GPU itself, and Ray would hide all of them from it; vLLM asks for their kind and memory."""


def reserve(name: str, nodes: Sequence[str], gpus_per_node: int, cpus: float) -> Any:
    """Ask for the GPUs; the group is made as soon as they are free, and outlives the orchestrator as the actor does."""
    import ray.util

    places = [nodes[0], *(node for node in nodes for _ in range(gpus_per_node))]
    bundles: list[dict[str, float]] = [{"CPU": cpus or 0.001}, *({"GPU": 1.0} for _ in places[1:])]
    return ray.util.placement_group(
        bundles,
        strategy="PACK",
        name=name,
        lifetime="detached",
        bundle_label_selector=[{NODE_ID: place} for place in places],
    )


def spanning(group: Any) -> dict[str, Any]:
    """Actor options: in the group's first bundle; what it starts stays in the group."""
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    strategy = PlacementGroupSchedulingStrategy(
        placement_group=group, placement_group_bundle_index=0, placement_group_capture_child_tasks=True
    )
    return {"num_gpus": 0, "scheduling_strategy": strategy, "runtime_env": {"env_vars": SEES_ALL_GPUS}}


def give_back(name: str) -> None:
    """Remove the group of that name, if there is one; an earlier orchestrator may have made it."""
    import ray.util

    try:
        ray.util.remove_placement_group(ray.util.get_placement_group(name))
    except ValueError:
        return
