"""What makes two campaigns the same must not change with the version: stores outlive upgrades."""

from __future__ import annotations

from typing import Any

from orchestrator.creation import spec_from
from orchestrator.store.campaigns import NewCampaign

SPEC: dict[str, Any] = {
    "name": "kept",
    "models": ["org/model"],
    "methods": ["dense", {"quest": {"token_budget": [64, 128]}}],
    "tasks": ["ruler_niah"],
    "lengths": [4096],
    "samples": 4,
}
HASH = "7b28b60ecfc8e11bb7b9c40e644194ac6a849576869b72d3085bc7c48df394cc"
"""As the version that knew no pipeline stages stored it."""


def hash_of(**changes: Any) -> str:
    spec = spec_from({**SPEC, **changes})
    return NewCampaign(name=spec.name, cells=[], spec=spec.model_dump(mode="json")).spec_hash


def test_a_field_that_a_spec_does_not_use_leaves_its_hash_as_it_was() -> None:
    assert hash_of() == HASH


def test_a_field_that_a_spec_uses_changes_its_hash() -> None:
    assert hash_of(models=[{"source": "org/model", "pipeline_parallel": 2}]) != HASH
    assert hash_of(samples=5) != HASH
