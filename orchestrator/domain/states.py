"""The states of campaigns, shards and attempts, and every legal change between them.

Only campaigns and shards store a state; a cell's is computed from its shards. An attempt is open
until it is closed once, with an ending. `TRANSITIONS` is the one table that says what may follow
what, and `docs/states.md` is drawn from it.

The two kinds are kept apart by class: members of different string enumerations with one value are equal.
"""

from __future__ import annotations

from enum import StrEnum


class CampaignState(StrEnum):
    """What a person wants of a campaign, and whether it is there."""

    READY = "ready"
    """Created; no orchestrator has worked on it yet."""
    RUNNING = "running"
    PAUSED = "paused"
    """No shard is claimed until it is resumed; attempts that run are finished."""
    COMPLETE = "complete"
    """Every shard is done, failed or cancelled."""
    CANCELLED = "cancelled"


class ShardState(StrEnum):
    """Where a range of samples stands."""

    READY = "ready"
    LEASED = "leased"
    """Exactly one open attempt has it."""
    DONE = "done"
    """Every index has an outcome."""
    FAILED = "failed"
    """Some indices have no outcome and no retry is left."""
    CANCELLED = "cancelled"


class Ending(StrEnum):
    """How an attempt was closed."""

    DONE = "done"
    FAILED = "failed"
    """A failure of its own; see the failure's kind."""
    RELEASED = "released"
    """Given back: drain, pause, or the orchestrator's wish."""
    EXPIRED = "expired"
    """Its lease ran out, or its worker is gone."""
    CANCELLED = "cancelled"


class WorkerState(StrEnum):
    """What a worker is doing, as its orchestrator last knew."""

    STARTING = "starting"
    """Its process runs and loads the engine."""
    READY = "ready"
    DRAINING = "draining"
    """Takes no more work; finishes or returns what it has."""
    BROKEN = "broken"
    """Its engine died, hangs or disagrees with a canary; it only hands over what it holds."""
    LOST = "lost"
    """The process or its node is gone."""
    STOPPED = "stopped"


State = CampaignState | ShardState

_CAMPAIGN: dict[State, dict[State, str]] = {
    CampaignState.READY: {
        CampaignState.RUNNING: "an orchestrator starts",
        CampaignState.PAUSED: "pause",
        CampaignState.CANCELLED: "cancel",
    },
    CampaignState.RUNNING: {
        CampaignState.PAUSED: "pause",
        CampaignState.COMPLETE: "no shard is left to do",
        CampaignState.CANCELLED: "cancel",
    },
    CampaignState.PAUSED: {
        CampaignState.RUNNING: "resume",
        CampaignState.CANCELLED: "cancel",
    },
    CampaignState.COMPLETE: {CampaignState.RUNNING: "requeue"},
    CampaignState.CANCELLED: {CampaignState.RUNNING: "requeue"},
}

_SHARD: dict[State, dict[State, str]] = {
    ShardState.READY: {
        ShardState.LEASED: "claim",
        ShardState.FAILED: "its engine cannot start",
        ShardState.CANCELLED: "cancel",
    },
    ShardState.LEASED: {
        ShardState.DONE: "every index has an outcome",
        ShardState.READY: "release, retry or lease expiry",
        ShardState.FAILED: "no retry is left",
        ShardState.CANCELLED: "cancel",
    },
    ShardState.DONE: {ShardState.READY: "recall after a failed canary, or requeue"},
    ShardState.FAILED: {ShardState.READY: "requeue"},
    ShardState.CANCELLED: {ShardState.READY: "requeue"},
}

TRANSITIONS: dict[type, dict[State, dict[State, str]]] = {CampaignState: _CAMPAIGN, ShardState: _SHARD}
"""For each kind, from each state: the states that may follow, and why."""

FINAL_SHARD_STATES = (ShardState.DONE, ShardState.FAILED, ShardState.CANCELLED)


class IllegalTransition(ValueError):
    """A change that `TRANSITIONS` does not know; the text names both states."""


def sources(target: State) -> tuple[State, ...]:
    """The states from which `target` may be reached, for the WHERE of a conditional update."""
    return tuple(source for source, targets in TRANSITIONS[type(target)].items() if target in targets)


def check_transition(source: State, target: State) -> str:
    """Why `source` may become `target`. Raises IllegalTransition when it may not."""
    try:
        if type(source) is type(target):
            return TRANSITIONS[type(source)][source][target]
    except KeyError:
        pass
    raise IllegalTransition(f"{type(source).__name__} {source} cannot become {target}") from None


def diagram() -> str:
    """The two state machines as Mermaid text, drawn from the table."""
    parts = [_diagram_of(kind) for kind in (CampaignState, ShardState)]
    return "\n\n".join(parts) + "\n"


def _diagram_of(kind: type[CampaignState] | type[ShardState]) -> str:
    lines = [f"## {kind.__name__}", "", "```mermaid", "stateDiagram-v2", "    [*] --> ready"]
    for source in kind:
        for target, reason in TRANSITIONS[kind].get(source, {}).items():
            lines.append(f"    {source} --> {target}: {reason}")
    return "\n".join([*lines, "```"])
