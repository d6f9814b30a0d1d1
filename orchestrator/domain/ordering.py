"""How cells are cut into shards, and in which order an engine takes them. Pure; the scheduler stores the ranks.

Longest first within an engine, so that no long shard starts at the end; paired, so that all methods of the same
prompts follow one another, and those that may read the prefix cache (dense and Quest) find the dense prefill there.
After the first prompts comes one range of each further length that an engine serves: an early forecast would else have
seen the longest prompts alone, and formulas tell poorly how much less the shorter ones cost. (Not before the first,
which meet a cold engine.)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from orchestrator.domain.grid import Cell

TARGET_SECONDS = 600.0
"""Length of a shard. Between 60 s and 3600 s the makespan does not move when outcomes stream back."""
TAIL_SHARE = 0.025
"""Of an engine's work that comes after a shard: no shard is longer, so that all its workers end together."""
LEAST_SECONDS = 60.0
"""But none is cut shorter than this for that reason,"""
MANY_SHARDS = 20
"""and only where an engine has so much work that several workers may share it."""
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
    return (_engine_of(cell), cell.length_tokens, task, cell.seed)


def _engine_of(cell: Cell) -> tuple[object, ...]:
    engine = cell.engine
    return (
        engine.model,
        engine.max_model_len,
        engine.tensor_parallel,
        engine.pipeline_parallel,
        str(engine.rope_scaling),
    )


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
    ranges: list[tuple[int, list[tuple[Cell, int, int]]]] = []
    tried: dict[object, set[int]] = defaultdict(set)
    whole = _work_by_engine(groups.values(), seconds_per_sample)
    work_left = dict(whole)
    for key in sorted(groups, key=lambda k: -slowest[k]):
        group = groups[key]
        engine = _engine_of(group[0])
        work_left[engine] -= _work(group, seconds_per_sample)
        target = target_seconds
        if whole[engine] > MANY_SHARDS * target_seconds:
            target = min(target, max(LEAST_SECONDS, TAIL_SHARE * work_left[engine]))
        most = min(most_samples, max(1, int(target / max(slowest[key], 1e-9))))
        size = shard_samples or _shard_size(group, most, cached_prompts if paired else None)
        lengths = tried[engine]
        is_first, is_pilot = paired and not lengths, paired and group[0].length_tokens not in lengths
        lengths.add(group[0].length_tokens)
        for first, cuts in _cut_group(group, size):
            ranges.append((0 if is_first else 1 if is_pilot and not first else 2, cuts))
    ordered = [cut for _, cuts in sorted(ranges, key=lambda r: r[0]) for cut in cuts]
    return [
        ShardCut(cell=cell, first_index=first, num_samples=n, rank=rank, seconds=n * seconds_per_sample(cell))
        for rank, (cell, first, n) in enumerate(ordered)
    ]


def _work(group: Iterable[Cell], seconds_per_sample: SecondsPerSample) -> float:
    return sum(cell.num_samples * seconds_per_sample(cell) for cell in group)


def _work_by_engine(
    groups: Iterable[Sequence[Cell]], seconds_per_sample: SecondsPerSample
) -> dict[tuple[object, ...], float]:
    found: dict[tuple[object, ...], float] = defaultdict(float)
    for group in groups:
        found[_engine_of(group[0])] += _work(group, seconds_per_sample)
    return found


def _shard_size(group: Sequence[Cell], most: int, cached_prompts: Callable[[Cell], int] | None) -> int:
    longest = max(cell.num_samples for cell in group)
    size = max(1, min(most, longest))
    if cached_prompts is not None and sum(map(reads_prefix_cache, group)) > 1:
        kept = cached_prompts(group[0])
        size = min(size, kept) if kept >= 2 else size
    pieces = -(-longest // size)
    return -(-longest // pieces)


def _cut_group(group: Sequence[Cell], size: int) -> list[tuple[int, list[tuple[Cell, int, int]]]]:
    """Range by range: its first index, and (cell, first index, samples) of its shards. In each range the cells that
    share one prefill come first (dense leading), then the others."""
    ordered = sorted(group, key=lambda cell: (not reads_prefix_cache(cell), bool(cell.method)))
    return [
        (first, [(c, first, min(size, c.num_samples - first)) for c in ordered if c.num_samples > first])
        for first in range(0, max(cell.num_samples for cell in group), size)
    ]


def reads_prefix_cache(cell: Cell) -> bool:
    """Whether the engine may serve the cell's prefill from another request's: dense rows, and no votes to collect."""
    return "prefill" not in cell.method and "compress" not in cell.method
