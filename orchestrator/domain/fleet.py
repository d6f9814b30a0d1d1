"""The GPUs that a campaign is planned for, written as `8x8xH100` (nodes × GPUs × type), several joined by commas."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.domain.gpu_types import GpuType, find_gpu
from orchestrator.domain.placement import Node
from orchestrator.errors import UserError

GROUP = re.compile(r"(?:(?P<nodes>\d+)\s*[x×*])??(?:(?P<gpus>\d+)\s*[x×*])?(?P<type>[A-Za-z][\w-]*)", re.ASCII)
MOST_GPUS = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeGroup:
    """Equal hosts."""

    num_nodes: int
    gpus_per_node: int
    gpu: GpuType

    @property
    def num_gpus(self) -> int:
        return self.num_nodes * self.gpus_per_node


@dataclass(frozen=True, slots=True)
class Fleet:
    """All hosts."""

    groups: tuple[NodeGroup, ...]

    @property
    def num_gpus(self) -> int:
        return sum(group.num_gpus for group in self.groups)

    def nodes(self) -> list[Node]:
        """One entry a host, all free."""
        found: list[Node] = []
        for group in self.groups:
            for _ in range(group.num_nodes):
                found.append(
                    Node(
                        name=f"node{len(found):03d}",
                        gpu_type=group.gpu.name,
                        num_gpus=group.gpus_per_node,
                        num_free=group.gpus_per_node,
                    )
                )
        return found

    def __str__(self) -> str:
        return ",".join(f"{g.num_nodes}x{g.gpus_per_node}x{g.gpu.name}" for g in self.groups)


def parse_fleet(text: str) -> Fleet:
    """`H100`, `8xH100` (one node of 8), `8x8xH100`, `2x8xH200,4x4xA100`. Raises UserError naming the wrong part."""
    return Fleet(tuple(_parse_group(part.strip()) for part in text.split(",")))


def _parse_group(text: str) -> NodeGroup:
    match = GROUP.fullmatch(text)
    if match is None:
        raise UserError(f"fleet {text!r}: write NODESxGPUSxTYPE, for example 8x8xH100 or 8xH100")
    nodes, gpus = int(match["nodes"] or 1), int(match["gpus"] or 1)
    if not 1 <= nodes * gpus <= MOST_GPUS:
        raise UserError(f"fleet {text!r}: the number of GPUs must be between 1 and {MOST_GPUS}")
    return NodeGroup(num_nodes=nodes, gpus_per_node=gpus, gpu=find_gpu(match["type"]))


def gpus_by_type(groups: Sequence[NodeGroup]) -> dict[str, int]:
    """GPUs of one node by type, the largest node of each."""
    sizes: dict[str, int] = {}
    for group in groups:
        sizes[group.gpu.name] = max(sizes.get(group.gpu.name, 0), group.gpus_per_node)
    return sizes
