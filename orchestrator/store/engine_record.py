"""Engine specs and task orders as JSON columns, and the key that says which cells one engine serves."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any

from workers.engine import EngineFacts, EngineSpec
from workers.protocol import TaskOrder

LATER_FIELDS = (("pipeline_parallel", 1), ("num_nodes", 1))
"""Left out at these values, which they had before they were fields: so the keys of older stores stay valid."""


def to_json(value: EngineSpec | TaskOrder | EngineFacts) -> dict[str, Any]:
    """The record's fields as plain JSON values."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(value), sort_keys=True))
    return as_before(plain, LATER_FIELDS)


def as_before(plain: Mapping[str, Any], later: Collection[tuple[str, Any]]) -> dict[str, Any]:
    """A record without the fields that came later, where they stand at these values."""
    return {name: field for name, field in plain.items() if (name, field) not in later}


def engine_from_json(plain: Mapping[str, Any]) -> EngineSpec:
    return EngineSpec(**plain)


def task_from_json(plain: Mapping[str, Any]) -> TaskOrder:
    return TaskOrder(**plain)


def engine_key(engine: EngineSpec) -> str:
    """Cells with one key are served by one loaded engine."""
    text = json.dumps(to_json(engine), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
