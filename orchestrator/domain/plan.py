"""What a campaign will take on a given fleet: samples, tokens, engines, GPU-hours, wall clock, memory, warnings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.domain.campaign_cost import CampaignCost, EngineKind, expected_output_tokens, kind_of
from orchestrator.domain.cost_correction import Correction
from orchestrator.domain.eta import Eta, WorkLeft, estimate
from orchestrator.domain.fleet import Fleet
from orchestrator.domain.grid import Cell
from orchestrator.domain.memory import smallest_tensor_parallel
from orchestrator.domain.ordering import ShardCut, cut_shards, reads_prefix_cache


@dataclass(frozen=True, slots=True, kw_only=True)
class EnginePlan:
    """One engine kind with its share of the campaign."""

    kind: EngineKind
    num_cells: int
    num_samples: int
    num_shards: int
    prompt_tokens: int
    engine_seconds: float
    num_engines: int
    """Loads at least needed on this fleet when nothing fails: its share of the GPUs."""
    advice: str
    """Empty, or what to change."""

    @property
    def gpu_hours(self) -> float:
        return self.engine_seconds * self.kind.gpus / 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignPlan:
    """The whole forecast. Densities of vertical-slash and FlexPrefill, output lengths and rates are priors."""

    name: str
    fleet: Fleet
    num_cells: int
    num_samples: int
    num_shards: int
    prompt_tokens: int
    output_tokens: float
    engines: tuple[EnginePlan, ...]
    gpu_hours: float
    """Of useful work."""
    load_gpu_hours: float
    pairing_saves_gpu_hours: float
    """Included in nothing above: prefills that a prefix cache would save, if every paired prompt stays cached."""
    eta: Eta
    longest_shard_seconds: float
    warnings: tuple[str, ...]

    @property
    def num_loads(self) -> int:
        return sum(engine.num_engines for engine in self.engines)

    @property
    def fits(self) -> bool:
        return all(engine.kind.fits for engine in self.engines)


def plan_campaign(
    name: str,
    cells: Sequence[Cell],
    fleet: Fleet,
    *,
    shard_samples: int | None = None,
    paired: bool = True,
    correction: Correction | None = None,
    gpu_hours_budget: float | None = None,
    warnings: Sequence[str] = (),
) -> CampaignPlan:
    """The plan on `fleet`; a mixed fleet is rated at its first type. Raises ModelError for an unknown model."""
    cost = CampaignCost(cells, fleet.groups[0].gpu, correction)
    shards = cut_shards(
        cells, cost.seconds, shard_samples=shard_samples, paired=paired, cached_prompts=cost.cached_prompts
    )
    engines = _engine_plans(cells, shards, cost, fleet)
    useful = sum(engine.gpu_hours for engine in engines)
    loads = sum(e.num_engines * e.kind.load_seconds * e.kind.gpus for e in engines) / 3600
    left = [_work_left(cell, cost) for cell in cells]
    share = useful / (useful + loads) if useful else 1.0
    eta = estimate(left, [], num_gpus=fleet.num_gpus, use=share)
    longest = max((shard.seconds for shard in shards), default=0.0)
    return CampaignPlan(
        name=name,
        fleet=fleet,
        num_cells=len(cells),
        num_samples=sum(cell.num_samples for cell in cells),
        num_shards=len(shards),
        prompt_tokens=sum(cell.num_samples * cell.length_tokens for cell in cells),
        output_tokens=sum(cell.num_samples * expected_output_tokens(cell) for cell in cells),
        engines=tuple(engines),
        gpu_hours=useful,
        load_gpu_hours=loads,
        pairing_saves_gpu_hours=_pairing_saves(shards, cost) if paired else 0.0,
        eta=eta,
        longest_shard_seconds=longest,
        warnings=(*warnings, *_warnings(engines, fleet, useful + loads, longest, gpu_hours_budget)),
    )


def _work_left(cell: Cell, cost: CampaignCost) -> WorkLeft:
    return WorkLeft(
        kind=kind_of(cell),
        num_samples=cell.num_samples,
        predicted_seconds=cell.num_samples * cost.seconds(cell),
        gpus=cell.engine.num_gpus,
    )


def _engine_plans(
    cells: Sequence[Cell], shards: Sequence[ShardCut], cost: CampaignCost, fleet: Fleet
) -> list[EnginePlan]:
    by_engine: dict[str, list[Cell]] = defaultdict(list)
    for cell in cells:
        by_engine[cost.engine_of(cell).key].append(cell)
    num_shards: dict[str, int] = defaultdict(int)
    for shard in shards:
        num_shards[cost.engine_of(shard.cell).key] += 1
    seconds = {key: sum(c.num_samples * cost.seconds(c) for c in group) for key, group in by_engine.items()}
    gpu_seconds = sum(seconds[key] * cost.engines[key].gpus for key in seconds)
    ideal_wall = gpu_seconds / fleet.num_gpus
    plans = []
    for key, group in by_engine.items():
        kind = cost.engines[key]
        plans.append(
            EnginePlan(
                kind=kind,
                num_cells=len(group),
                num_samples=sum(cell.num_samples for cell in group),
                num_shards=num_shards[key],
                prompt_tokens=sum(cell.num_samples * cell.length_tokens for cell in group),
                engine_seconds=seconds[key],
                num_engines=max(1, -int(-seconds[key] // max(ideal_wall, 1e-9))),
                advice=_advice(kind, fleet),
            )
        )
    return plans


def _advice(kind: EngineKind, fleet: Fleet) -> str:
    if kind.fits:
        return ""
    size = smallest_tensor_parallel(
        kind.facts,
        fleet.groups[0].gpu,
        max_model_len=kind.engine.max_model_len,
        gpus_per_node=fleet.groups[0].gpus_per_node,
        max_in_flight=kind.engine.max_in_flight,
        utilization=kind.engine.gpu_memory_utilization,
    )
    reason = kind.split_problem or kind.memory.verdict
    return f"{reason}; {f'tensor_parallel: {size} fits' if size else 'no size on one node fits'}"


def _pairing_saves(shards: Sequence[ShardCut], cost: CampaignCost) -> float:
    """GPU-hours of dense prefills that repeat those of the shard before (same prompts, same engine)."""
    saved, before = 0.0, None
    for shard in shards:
        if not reads_prefix_cache(shard.cell):
            continue
        prompts = (cost.engine_of(shard.cell).key, shard.cell.task_label, shard.cell.seed, shard.first_index)
        if prompts == before:
            kind = cost.engine_of(shard.cell)
            saved += shard.num_samples * cost.sample(shard.cell).prefill_seconds * kind.gpus
        before = prompts
    return saved / 3600


def _warnings(
    engines: Sequence[EnginePlan], fleet: Fleet, gpu_hours: float, longest: float, budget: float | None
) -> list[str]:
    found = [f"{e.kind.key} on {fleet.groups[0].gpu.name}: {e.advice}" for e in engines if e.advice]
    largest_node = max(group.gpus_per_node for group in fleet.groups)
    for engine in engines:
        kind = engine.kind
        share, num_nodes = kind.engine.gpus_per_node, kind.engine.num_nodes
        if num_nodes == 1 and share > largest_node:
            found.append(f"{kind.key}: needs {share} GPUs of one node; the largest node has {largest_node}")
        able = sum(group.num_nodes for group in fleet.groups if group.gpus_per_node >= share)
        if num_nodes > max(1, able):
            found.append(f"{kind.key}: needs {share} GPUs on each of {num_nodes} nodes; {able} node(s) have so many")
        if kind.fits and kind.memory.requests_at_full_length < min(4, kind.engine.max_in_flight):
            found.append(f"{kind.key}: only {kind.memory.requests_at_full_length:.1f} full-length requests at once")
    if budget is not None and gpu_hours > budget:
        found.append(f"the budget of {budget:,.0f} GPU-hours ends before the campaign ({gpu_hours:,.0f} GPU-hours)")
    if longest > 3600:
        found.append(f"the longest shard takes {longest / 3600:.1f} h; a lost worker loses at most its unsent samples")
    return found
