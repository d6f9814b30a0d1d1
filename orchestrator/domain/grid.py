"""From a spec to its cells. Same spec, same cells, same keys, on any machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from typing import Any, Protocol

from sparsekernels.parameters import ParameterError

from orchestrator.domain.method_entry import MethodEntry, MethodPoint
from orchestrator.domain.rope import resolve_rope
from orchestrator.domain.spec import CampaignSpec, ModelEntry
from orchestrator.domain.task_entry import TaskEntry
from orchestrator.errors import ModelError, SpecError
from tasks.errors import DataError
from tasks.registry import get_task
from workers.engine import GANGS_BY_GPU, EngineSpec
from workers.protocol import TaskOrder

IDENTITY_VERSION = 1
"""Raised when the meaning of a cell changes: a method's selection, a prompt's form, an engine default."""


class KnownModel(Protocol):
    """What the grid asks of a model; `orchestrator.models.ModelDescription` has it."""

    @property
    def folder(self) -> Any: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def max_context_tokens(self) -> int | None: ...


Describe = Callable[[str, str | None], KnownModel]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One point of the grid."""

    key: str
    """Hash of everything that can change a number in it."""
    model_name: str
    engine: EngineSpec
    task: TaskOrder
    task_label: str
    length_tokens: int
    seed: int
    num_samples: int
    method: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Wire form of MethodChoice; empty is dense."""
    method_label: str = "dense"
    budget: str = ""
    compression: float | None = None
    """Nominal; None when only measuring tells."""
    max_output_tokens: int
    sampling: Mapping[str, Any] = field(default_factory=dict)


def expand(spec: CampaignSpec, describe: Describe) -> list[Cell]:
    """All cells of `spec`, paired: the methods of one prompt set stand together.

    Raises SpecError for an unknown model, a length beyond a model's context, or a missing data set.
    """
    known = {model.name: _describe(spec, model, describe) for model in spec.models}
    cells = [
        cell
        for model in spec.models
        for length in spec.lengths
        for task in spec.tasks
        if task.lengths is None or length in task.lengths
        for cell in _methods_of(spec, model, known, length, task)
    ]
    _refuse_empty_axes(spec, cells)
    return _without_duplicates(cells)


def _refuse_empty_axes(spec: CampaignSpec, cells: list[Cell]) -> None:
    """Raises SpecError for a task or a method whose own lengths leave it without any cell."""
    for axis, names, used in (
        ("tasks", [task.name for task in spec.tasks], {cell.task_label for cell in cells}),
        ("methods", [method.name for method in spec.methods], {cell.method_label for cell in cells}),
    ):
        for index, name in enumerate(names):
            if name not in used:
                text = f"{axis}.{index} ({name}) names none of the campaign's lengths, so nothing of it would run"
                raise SpecError(text, at=(axis, index))


def _describe(spec: CampaignSpec, model: ModelEntry, describe: Describe) -> KnownModel:
    try:
        return describe(model.source, model.revision)
    except ModelError as error:
        raise SpecError(str(error), at=("models", spec.models.index(model), "source")) from None


def _methods_of(
    spec: CampaignSpec, model: ModelEntry, known: Mapping[str, KnownModel], length: int, task: TaskEntry
) -> Iterator[Cell]:
    definition = get_task(task.task)
    engine = engine_spec(spec, model, known[model.name], length)
    for seed in spec.seeds:
        for method in spec.methods:
            for point in _points_of(spec, method, length, definition.approximation_window):
                yield _cell(spec, model, known[model.name], engine, task, length, seed, method.name, point)


def _points_of(spec: CampaignSpec, method: MethodEntry, length: int, window: int) -> list[MethodPoint]:
    """The method's budgets at a length. Raises SpecError for one that this length does not allow."""
    try:
        return list(method.points(length, window))
    except ParameterError as error:
        raise SpecError(f"{error} (at length {length})", at=("methods", spec.methods.index(method))) from None


def engine_spec(spec: CampaignSpec, model: ModelEntry, known: KnownModel, length: int) -> EngineSpec:
    """The engine that serves `length` for `model`: one for all lengths unless RoPE changes with the length."""
    longest = max(spec.lengths) if model.rope != "yarn_per_length" else length
    needed = longest + max(output_limit(spec, task) for task in spec.tasks)
    rope = resolve_rope(model.rope, needed)
    limits = [n for n in (model.max_context, rope.context_tokens or known.max_context_tokens) if n is not None]
    if limits and needed > min(limits):
        raise SpecError(
            f"length {longest} and {needed - longest} output tokens exceed the context of model {model.name}, "
            f"{min(limits)} tokens",
            at=("lengths", spec.lengths.index(longest)),
        )
    return EngineSpec(
        model=str(known.folder or model.source),
        model_fingerprint=known.fingerprint,
        tensor_parallel=model.tensor_parallel,
        pipeline_parallel=model.pipeline_parallel,
        num_nodes=model.nodes_per_engine,
        dtype=model.dtype,
        max_model_len=needed,
        rope_scaling=rope.override,
        load_format=model.load_format,
        max_in_flight=model.max_in_flight,
        kv_cache_gib=model.kv_cache_gib,
        gpu_memory_utilization=model.gpu_memory_utilization,
        options=model.options | ({GANGS_BY_GPU: model.tensor_parallel_by_gpu} if model.tensor_parallel_by_gpu else {}),
    )


def output_limit(spec: CampaignSpec, task: TaskEntry) -> int:
    """Tokens that a completion of `task` may have: of the task entry, else of the spec, else of the task itself."""
    if task.max_output_tokens or spec.max_output_tokens:
        return task.max_output_tokens or spec.max_output_tokens or 0
    definition = get_task(task.task)
    return definition.output_limit(definition.parse_parameters(task.parameters))


def _cell(
    spec: CampaignSpec,
    model: ModelEntry,
    known: KnownModel,
    engine: EngineSpec,
    task: TaskEntry,
    length: int,
    seed: int,
    method_label: str,
    point: MethodPoint,
) -> Cell:
    definition = get_task(task.task)
    parsed = definition.parse_parameters(task.parameters)
    order = TaskOrder(
        name=task.task,
        version=definition.version,
        parameters=canonical(parsed),
        scoring=spec.scoring,
        plugin=definition.plugin,
    )
    wire = point.choice.to_wire()
    try:
        task_identity = definition.full_identity_parameters(parsed)
        available = definition.num_available(parsed)
    except DataError as error:
        raise SpecError(f"{task.task}: {error}", at=("tasks", spec.tasks.index(task))) from None
    identity = {
        "version": IDENTITY_VERSION,
        "model": known.fingerprint,
        "dtype": engine.dtype,
        "tensor_parallel": engine.tensor_parallel,
        "rope": engine.rope_scaling,
        "load_format": engine.load_format,
        "task": {**_own_fields(order), "parameters": task_identity},
        "length": length,
        "seed": seed,
        "method": wire,
        "max_output_tokens": output_limit(spec, task),
        "sampling": spec.sampling.to_wire(),
    }
    if engine.pipeline_parallel > 1:
        identity["pipeline_parallel"] = engine.pipeline_parallel
    return Cell(
        key=identity_hash(identity),
        model_name=model.name,
        engine=engine,
        task=order,
        task_label=task.name,
        length_tokens=length,
        seed=seed,
        num_samples=min(n for n in (task.samples or spec.samples, available) if n is not None),
        method=wire,
        method_label=method_label,
        budget=point.budget,
        compression=point.compression,
        max_output_tokens=output_limit(spec, task),
        sampling=spec.sampling.to_wire(),
    )


def _own_fields(order: TaskOrder) -> dict[str, Any]:
    """The order without the plug-in, which stands among the identity's parameters where there is one."""
    return {name: value for name, value in asdict(order).items() if name != "plugin"}


def canonical(parameters: Any) -> dict[str, Any]:
    """Task parameters, defaults written out, as JSON knows them."""
    values = asdict(parameters) if is_dataclass(parameters) and not isinstance(parameters, type) else dict(parameters)
    plain: dict[str, Any] = json.loads(json.dumps(values, sort_keys=True))
    return plain


def identity_hash(identity: Mapping[str, Any]) -> str:
    """24 hexadecimal digits of the SHA-256 of the canonical JSON."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _without_duplicates(cells: list[Cell]) -> list[Cell]:
    """One cell for each key: two entries that mean the same point (dense twice) are measured once."""
    return list({cell.key: cell for cell in reversed(cells)}.values())[::-1]
