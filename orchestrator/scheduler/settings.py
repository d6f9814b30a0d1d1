"""How a loop behaves: intervals and limits, all with defaults that suit real clusters."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.domain.retry import RetryPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopSettings:
    """Seconds unless the name says otherwise."""

    tick_seconds: float = 0.2
    """Least time between two exchanges with the workers."""
    lease_seconds: float = 60.0
    """A worker that is silent for so long loses its shards."""
    start_seconds: float = 600.0
    """A worker that has not answered once for so long is given up (its engine may load for longer)."""
    campaign_lease_seconds: float = 3.0
    """A dead orchestrator's campaign may be taken over after so long."""
    lookahead_seconds: float = 600.0
    """Workers hold orders for so long, so that they keep busy while the store is away."""
    stall_seconds: float = 600.0
    """No token for so long means that an engine hangs."""
    canary_seconds: float = 900.0
    """Known prompts run again after so long; 0 turns them off."""
    orphan_seconds: float = 1800.0
    """A worker without orchestrator and work ends itself after so long."""
    grace_seconds: float = 20.0
    """A drain takes no longer than this."""
    look_seconds: float = 1.0
    """How often states and demands are read back from the store."""
    record_seconds: float = 5.0
    """How often speeds are noted."""
    outage_seconds: float = 3600.0
    """The store may be away for so long before the orchestrator gives up."""
    wall_ends_at: float | None = None
    """On the loop's clock: when the hosts are taken away. No engine is loaded that would hardly run before."""
    policy: RetryPolicy = field(default_factory=RetryPolicy)
    spool_folder: Path | None = None
    """Where outcomes are kept while the store is away; None keeps them in memory and in the workers."""
