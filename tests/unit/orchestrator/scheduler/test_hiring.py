"""Which engines are started near the end of a wall time."""

from __future__ import annotations

import pytest

from orchestrator.domain.placement import Node
from orchestrator.scheduler.hiring import Hiring
from orchestrator.store.plan import Remaining
from workers.engine import EngineSpec

ENGINE = EngineSpec(model="m", max_model_len=1024)
LEFT = {"engine": Remaining(num_shards=4, num_samples=40, seconds=40.0)}


def started(hiring: Hiring, seconds_left: float | None) -> int:
    node = Node(name="n", num_gpus=1, num_free=1, seconds_left=seconds_left)
    return len(hiring.choose([node], LEFT, [], [], 0.0))


@pytest.mark.parametrize("seconds_left", [30.0, 60.0, 200.0, None])
def test_a_load_of_unknown_length_is_tried_however_short_the_wall_time(seconds_left: float | None) -> None:
    assert started(Hiring({"engine": ENGINE}), seconds_left) == 1


def test_a_load_that_was_measured_must_fit_twice_in_what_is_left() -> None:
    hiring = Hiring({"engine": ENGINE})
    hiring.note_load("engine", 40.0)
    assert started(hiring, 60.0) == 0
    assert started(hiring, 100.0) == 1
