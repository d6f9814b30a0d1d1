"""What an order asks of the engine for each sample."""

from __future__ import annotations

from typing import Any

from workers.engine import EngineSpec
from workers.open_order import OpenOrder, cache_tokens
from workers.protocol import ShardOrder, TaskOrder
from workers.source import TaskSource


def order_of(seed: int = 43, **more: Any) -> ShardOrder:
    return ShardOrder(
        campaign="c", cell_key="k", shard_id=1, attempt_id=1, engine=EngineSpec(model="none", max_model_len=256),
        task=TaskOrder(name="synthetic", version=1, parameters={}), length_tokens=48, seed=seed,
        indices=tuple(range(20)), max_output_tokens=16, **more,
    )  # fmt: skip


def seeds(seed: int, **more: Any) -> list[int | None]:
    order = order_of(seed, **more)
    source = TaskSource()
    return [OpenOrder.of(order).request("r", source.make(order, index)).seed for index in order.indices]


def test_greedy_requests_need_no_seed() -> None:
    assert seeds(43) == [None] * 20


def test_two_seeds_of_a_campaign_share_no_draw() -> None:
    sampling = {"temperature": 0.7, "top_p": 1.0, "top_k": 0}
    drawn = [*seeds(43, sampling=sampling), *seeds(44, sampling=sampling)]
    assert len(set(drawn)) == 40
    assert drawn[:20] == seeds(43, sampling=sampling)


def test_a_prompt_that_several_methods_share_takes_its_cache_once() -> None:
    source = TaskSource()
    dense, quest = order_of(), order_of(method={"decode": {"name": "quest", "token_budget": 16}})
    sparse = order_of(method={"prefill": {"name": "block_sparse", "top_blocks": 4}})
    one, two = source.make(dense, 0), source.make(dense, 1)
    assert cache_tokens([]) == 0
    assert cache_tokens([(dense, one)]) == 48 + 16
    assert cache_tokens([(dense, one), (quest, one)]) == 48 + 2 * 16
    assert cache_tokens([(dense, one), (quest, two)]) == 2 * (48 + 16)
    assert cache_tokens([(dense, one), (sparse, one)]) == 2 * (48 + 16)
