"""How cells are cut into shards, and in which order an engine takes them. Pure; the scheduler stores the ranks.

Longest first within an engine, so that no long shard starts at the end; paired, so that all methods of the same
prompts follow one another, and those that may read the prefix cache (dense and Quest) find the dense prefill there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from orchestrator.domain.grid import Cell

TARGET_SECONDS = 600.0
"""Length of a shard. Between 60 s and 3600 s the makespan does not move when outcomes stream back."""
MOST_SAMPLES = 200
"""Bounds what one attempt can lose and what one claim carries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardCut:
    """A range of one cell's samples with its place in the queue of its engine."""

    cell: Cell
    first_index: int
    num_samples: int
    rank: int
    """Smaller is claimed first; unique over a campaign."""
    seconds: float
    """Predicted, of one engine."""


SecondsPerSample = Callable[[Cell], float]


def prompt_set(cell: Cell) -> tuple[object, ...]:
    """What the cells that ask the same prompts of the same engine have in common."""
    task = (cell.task.name, cell.task.version, tuple(sorted((k, str(v)) for k, v in cell.task.parameters.items())))
    engine = (cell.engine.model, cell.engine.max_model_len, cell.engine.tensor_parallel, str(cell.engine.rope_scaling))
    return (engine, cell.length_tokens, task, cell.seed)


def cut_shards(
    cells: Iterable[Cell],
    seconds_per_sample: SecondsPerSample,
    *,
    shard_samples: int | None = None,
    target_seconds: float = TARGET_SECONDS,
    most_samples: int = MOST_SAMPLES,
    paired: bool = True,
    cached_prompts: Callable[[Cell], int] | None = None,
) -> list[ShardCut]:
    """All shards with their ranks. `shard_samples` fixes the size; else the slowest cell of a prompt set decides it,
    so that paired shards cover the same samples.

    `cached_prompts(cell)` bounds paired shards to the prompts whose cache an engine can keep; ignored when below 2.
    """
    groups: dict[tuple[object, ...], list[Cell]] = defaultdict(list)
    for position, cell in enumerate(cells):
        groups[prompt_set(cell) if paired else (position,)].append(cell)
    slowest = {key: max(map(seconds_per_sample, group)) for key, group in groups.items()}
    shards: list[ShardCut] = []
    for key in sorted(groups, key=lambda k: -slowest[k]):
        group = groups[key]
        most = min(most_samples, max(1, int(target_seconds / max(slowest[key], 1e-9))))
        size = shard_samples or _shard_size(group, most, cached_prompts if paired else None)
        shards += _cut_group(group, size, seconds_per_sample, first_rank=len(shards))
    return shards


def _shard_size(group: Sequence[Cell], most: int, cached_prompts: Callable[[Cell], int] | None) -> int:
    longest = max(cell.num_samples for cell in group)
    size = max(1, min(most, longest))
    if cached_prompts is not None and sum(map(reads_prefix_cache, group)) > 1:
        kept = cached_prompts(group[0])
        size = min(size, kept) if kept >= 2 else size
    pieces = -(-longest // size)
    return -(-longest // pieces)


def _cut_group(
    group: Sequence[Cell], size: int, seconds_per_sample: SecondsPerSample, *, first_rank: int
) -> list[ShardCut]:
    """Range by range; in each, the cells that share one prefill first (dense leading), then the others."""
    ordered = sorted(group, key=lambda cell: (not reads_prefix_cache(cell), bool(cell.method)))
    cuts: list[ShardCut] = []
    for first in range(0, max(cell.num_samples for cell in group), size):
        for cell in ordered:
            count = min(size, cell.num_samples - first)
            if count > 0:
                rank, seconds = first_rank + len(cuts), count * seconds_per_sample(cell)
                cut = ShardCut(cell=cell, first_index=first, num_samples=count, rank=rank, seconds=seconds)
                cuts.append(cut)
    return cuts


def reads_prefix_cache(cell: Cell) -> bool:
    """Whether the engine may serve the cell's prefill from another request's: dense rows, and no votes to collect."""
    return "prefill" not in cell.method and "compress" not in cell.method
