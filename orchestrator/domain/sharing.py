"""Campaigns that share a cluster: the one of higher priority gets every GPU that it can use.

Each campaign has an orchestrator of its own; they see each other in the store. While a rival of higher priority has
work that waits, a campaign starts no engine; and it lets its engines go, one at a time, until the rival has room.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from orchestrator.domain.placement import Node


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """A campaign of higher priority that an orchestrator drives on the same cluster."""

    name: str
    num_ready_shards: int
    """Work that no engine has yet."""
    num_engines: int
    """Starting or up."""
    gpus_wanted: int
    """Of the smallest engine that could do some of it."""

    @property
    def wants_more(self) -> bool:
        """More waits than its engines will take at once: a returned shard at the end of a campaign is no reason."""
        return self.num_ready_shards > self.num_engines


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """An engine of ours that could be let go."""

    name: str
    node: str
    gpus: int
    num_held: int
    """Samples that it would give back."""
    is_leaving: bool


def may_hire(rivals: Iterable[Rival]) -> bool:
    """Whether engines of ours may be started on what is free."""
    return not any(rival.num_ready_shards > 0 for rival in rivals)


def engine_to_let_go(rivals: Iterable[Rival], nodes: Sequence[Node], holdings: Sequence[Holding]) -> str | None:
    """The engine that makes room for a rival soonest; None when nobody needs it or room is on its way."""
    wanted = min((rival.gpus_wanted for rival in rivals if rival.wants_more), default=None)
    if wanted is None:
        return None
    soon = {node.name: node.open_gpus for node in nodes}
    for holding in holdings:
        if holding.is_leaving:
            soon[holding.node] = soon.get(holding.node, 0) + holding.gpus
    staying = [holding for holding in holdings if not holding.is_leaving]
    if not staying or any(free >= wanted for free in soon.values()):
        return None
    return min(staying, key=lambda h: (-(soon.get(h.node, 0) + h.gpus), h.num_held, h.name)).name
