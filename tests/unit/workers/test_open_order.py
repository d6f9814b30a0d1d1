"""What an order asks of the engine for each sample."""

from __future__ import annotations

from typing import Any

from workers.engine import EngineSpec
from workers.open_order import OpenOrder
from workers.protocol import ShardOrder, TaskOrder
from workers.source import TaskSource


def seeds(seed: int, **more: Any) -> list[int | None]:
    order = ShardOrder(
        campaign="c", cell_key="k", shard_id=1, attempt_id=1, engine=EngineSpec(model="none", max_model_len=256),
        task=TaskOrder(name="synthetic", version=1, parameters={}), length_tokens=48, seed=seed,
        indices=tuple(range(20)), max_output_tokens=16, **more,
    )  # fmt: skip
    source = TaskSource()
    return [OpenOrder.of(order).request("r", source.make(order, index)).seed for index in order.indices]


def test_greedy_requests_need_no_seed() -> None:
    assert seeds(43) == [None] * 20


def test_two_seeds_of_a_campaign_share_no_draw() -> None:
    sampling = {"temperature": 0.7, "top_p": 1.0, "top_k": 0}
    drawn = [*seeds(43, sampling=sampling), *seeds(44, sampling=sampling)]
    assert len(set(drawn)) == 40
    assert drawn[:20] == seeds(43, sampling=sampling)
