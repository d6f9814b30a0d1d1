"""What the cells of a campaign cost: per engine, per cell, before anything has run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from orchestrator.domain.cost import TYPICAL_OUTPUT_TOKENS, SampleCost, load_seconds, sample_cost
from orchestrator.domain.cost_correction import Correction, Kind
from orchestrator.domain.gpu_types import GIB, GpuType
from orchestrator.domain.grid import Cell
from orchestrator.domain.known_models import find_known
from orchestrator.domain.memory import MemoryPlan, plan_memory
from orchestrator.domain.model_facts import ModelFacts, facts_from_folder
from orchestrator.errors import ModelError
from workers.engine import EngineSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineKind:
    """One engine as the spec wants it on one GPU type."""

    key: str
    model_name: str
    engine: EngineSpec
    facts: ModelFacts
    memory: MemoryPlan
    load_seconds: float
    split_problem: str | None
    """Why the heads or layers do not split over the GPUs, or None."""

    @property
    def gpus(self) -> int:
        return self.engine.num_gpus

    @property
    def fits(self) -> bool:
        return self.memory.fits and self.split_problem is None

    def in_flight(self, length_tokens: float) -> float:
        """Requests of this length that run at once: the spec's limit, or what the cache holds."""
        return max(1.0, min(self.engine.max_in_flight, self.memory.kv_capacity_tokens / max(1.0, length_tokens)))


class CampaignCost:
    """Predicted seconds of one engine for any cell, on one GPU type; remembers what it has worked out."""

    def __init__(self, cells: Sequence[Cell], gpu: GpuType, correction: Correction | None = None) -> None:
        """Raises ModelError for a model whose shape is neither known nor in its folder."""
        self.gpu = gpu
        self.correction = correction or Correction()
        self.engines: dict[str, EngineKind] = {}
        self._engine_of_cell = {cell.key: self._engine(cell) for cell in cells}
        self._costs: dict[tuple[Any, ...], SampleCost] = {}
        self._seconds: dict[str, float] = {}

    def _engine(self, cell: Cell) -> EngineKind:
        key = engine_key(cell.engine)
        if key not in self.engines:
            self.engines[key] = _engine_kind(key, cell, self.gpu)
        return self.engines[key]

    def engine_of(self, cell: Cell) -> EngineKind:
        """The engine of one of the cells given at the start."""
        return self._engine_of_cell[cell.key]

    def sample(self, cell: Cell, *, prefill_cached: bool = False) -> SampleCost:
        """Cost of one sample of the cell, uncorrected."""
        kind = self.engine_of(cell)
        output = expected_output_tokens(cell)
        key = (kind.key, cell.length_tokens, output, cell.method_label, cell.budget, prefill_cached)
        if key not in self._costs:
            self._costs[key] = sample_cost(
                kind.facts,
                self.gpu,
                tensor_parallel=kind.engine.tensor_parallel,
                pipeline_parallel=kind.engine.pipeline_parallel,
                length_tokens=cell.length_tokens,
                output_tokens=output,
                method=cell.method,
                in_flight=kind.in_flight(cell.length_tokens + output),
                prefill_cached=prefill_cached,
            )
        return self._costs[key]

    def cached_prompts(self, cell: Cell) -> int:
        """Prompts of this cell whose whole prefill the engine's cache can hold."""
        kind = self.engine_of(cell)
        return int(kind.memory.kv_capacity_tokens / (cell.length_tokens + expected_output_tokens(cell)))

    def seconds(self, cell: Cell) -> float:
        """Engine seconds per sample, corrected by what the campaign has seen."""
        if cell.key not in self._seconds:
            self._seconds[cell.key] = self.sample(cell).seconds * self.correction.factor(kind_of(cell))
        return self._seconds[cell.key]


def engine_key(engine: EngineSpec) -> str:
    """The engine's identity: what makes a reload necessary."""
    gang = f"tp{engine.tensor_parallel}"
    if engine.pipeline_parallel > 1:
        gang += f" pp{engine.pipeline_parallel}"
    if engine.num_nodes > 1:
        gang += f" on {engine.num_nodes} nodes"
    return _engine_key(engine.model, gang, engine.max_model_len, json.dumps(engine.rope_scaling))


@lru_cache(maxsize=4096)
def _engine_key(model: str, gang: str, max_model_len: int, rope: str) -> str:
    factor = json.loads(rope)
    scaled = f" yarn {factor['factor']:.3g}" if factor and "factor" in factor else ""
    return f"{model} {gang} {max_model_len}{scaled}"


def kind_of(cell: Cell) -> Kind:
    """What the corrections tell cells apart by."""
    method = f"{cell.method_label} {cell.budget}".strip()
    return Kind(model=cell.model_name, length_tokens=cell.length_tokens, method=method, task=cell.task_label)


def expected_output_tokens(cell: Cell) -> float:
    """Tokens of a completion before any was seen."""
    return float(min(TYPICAL_OUTPUT_TOKENS, cell.max_output_tokens))


def find_facts(engine: EngineSpec) -> ModelFacts:
    """Facts of an engine's model: from its folder if it is here, else from the table. Raises ModelError."""
    folder = Path(engine.model)
    if (folder / "config.json").is_file():
        return facts_from_folder(folder, dtype=engine.dtype)
    facts = find_known(engine.model)
    if facts is None:
        raise ModelError(f"model {engine.model}: its shape is unknown here; give a folder with its config.json")
    return facts


def engine_memory(engine: EngineSpec, facts: ModelFacts, gpu: GpuType) -> MemoryPlan:
    """The memory plan of one engine on one GPU type, with the spec's settings."""
    options: Mapping[str, Any] = engine.options
    return plan_memory(
        facts,
        gpu,
        tensor_parallel=engine.tensor_parallel,
        pipeline_parallel=engine.pipeline_parallel,
        max_model_len=engine.max_model_len,
        num_batched_tokens=options.get("max_num_batched_tokens"),
        max_in_flight=engine.max_in_flight,
        utilization=engine.gpu_memory_utilization,
        kv_cache_bytes=None if engine.kv_cache_gib is None else engine.kv_cache_gib * GIB,
        eager=bool(options.get("enforce_eager", False)),
        page_summaries=bool(options.get("plugin", True)),
    )


def _engine_kind(key: str, cell: Cell, gpu: GpuType) -> EngineKind:
    facts = find_facts(cell.engine)
    return EngineKind(
        key=key,
        model_name=cell.model_name,
        engine=cell.engine,
        facts=facts,
        memory=engine_memory(cell.engine, facts, gpu),
        load_seconds=load_seconds(facts, cell.engine.num_gpus),
        split_problem=facts.check_split(cell.engine.tensor_parallel, cell.engine.pipeline_parallel),
    )
