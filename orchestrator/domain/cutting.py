"""Cut a campaign into shards with predicted seconds, for the store; works for models of unknown shape too."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.domain.campaign_cost import CampaignCost
from orchestrator.domain.gpu_types import find_gpu
from orchestrator.domain.grid import Cell
from orchestrator.domain.ordering import ShardCut, cut_shards
from orchestrator.errors import ModelError

UNKNOWN_TOKENS_PER_SECOND = 10_000.0
"""Prefill speed assumed for a model whose shape is unknown: only the order follows from it."""


def cut_campaign(
    cells: Sequence[Cell], *, samples_per_shard: int, target_seconds: float | None, gpu_type: str, paired: bool
) -> list[ShardCut]:
    """Shards of `samples_per_shard`; with `target_seconds` of at most that many samples and about that long.

    Raises UserError for an unknown GPU type.
    """
    cost = _cost(cells, gpu_type)
    seconds = cost.seconds if cost is not None else _by_length
    if target_seconds is None:
        return cut_shards(cells, seconds, shard_samples=samples_per_shard, paired=paired)
    return cut_shards(
        cells,
        seconds,
        most_samples=samples_per_shard,
        target_seconds=target_seconds,
        paired=paired,
        cached_prompts=cost.cached_prompts if cost is not None else None,
    )


def _cost(cells: Sequence[Cell], gpu_type: str) -> CampaignCost | None:
    try:
        return CampaignCost(cells, find_gpu(gpu_type))
    except ModelError:
        return None


def _by_length(cell: Cell) -> float:
    return (cell.length_tokens + cell.max_output_tokens) / UNKNOWN_TOKENS_PER_SECOND
