"""Nodes, gangs and what may go where. The scheduler keeps this map itself: Ray's own placement fragments nodes.

A *gang* is the GPUs of one engine, all on one node (STRICT_PACK), unless its demand asks for several nodes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A host and what is free on it."""

    name: str
    gpu_type: str = ""
    num_gpus: int
    num_free: int
    draining: bool = False
    """It will go away: nothing new is placed on it."""
    seconds_left: float | None = None
    """Until its walltime ends; None means without end."""

    @property
    def open_gpus(self) -> int:
        return 0 if self.draining else self.num_free


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Engines of one kind that a campaign could use."""

    key: str
    """The engine's identity: model, context length, RoPE."""
    gpus: Mapping[str, int] = field(default_factory=dict)
    """GPUs of one engine by GPU type; `""` is the answer for every other type. An absent type cannot run it."""
    remaining_seconds: float
    """Work left, seconds of one engine."""
    num_engines: int = 0
    """Engines of this kind that are running or starting."""
    load_seconds: float = 0.0
    priority: int = 0
    max_engines: int | None = None
    """As many as it has shards left, or as its campaign's GPU budget allows."""
    num_nodes: int = 1
    """Above 1 only when asked for: the gang is split evenly over so many nodes of one type."""

    def gang_size(self, gpu_type: str) -> int | None:
        """GPUs of one engine on nodes of that type, or None when it cannot run there."""
        return self.gpus.get(gpu_type, self.gpus.get(""))

    def share_on(self, node: Node) -> int | None:
        """GPUs that one engine takes on this node, or None when it may not start there at all."""
        size = self.gang_size(node.gpu_type)
        if size is None or size % self.num_nodes or node.draining:
            return None
        # Near the end of its walltime a node is not worth a load that takes half of what is left.
        has_time = node.seconds_left is None or node.seconds_left > 2 * self.load_seconds
        return size // self.num_nodes if has_time else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """One engine to start: its kind, its nodes, and the GPUs that it takes on each."""

    key: str
    nodes: tuple[str, ...]
    gpus_per_node: int


def too_large(shares: Mapping[str, tuple[int, int]], nodes: Sequence[Node]) -> dict[str, str]:
    """Engines (GPUs on each of so many nodes, by key) that the nodes here cannot hold, each with one line of why."""
    found = {}
    most = max((node.num_gpus for node in nodes), default=0)
    for key, (gpus, num_nodes) in shares.items():
        able = sum(node.num_gpus >= gpus for node in nodes)
        if able >= num_nodes:
            continue
        if num_nodes == 1:
            found[key] = (
                f"it needs {gpus} GPUs of one node, and the largest node has {most}: choose a smaller "
                "tensor_parallel, add a larger node, or let one engine span several with nodes_per_engine"
            )
        else:
            found[key] = f"it needs {gpus} GPUs on each of {num_nodes} nodes, and {able} node(s) here have so many"
    return found
