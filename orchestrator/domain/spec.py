"""The campaign as a person writes it: frozen, typed, refusing unknown keys.

Positions are not known here; `spec_file` adds file, line and column to the errors raised by these models.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, field_validator, model_validator

from orchestrator.domain.labels import Label
from orchestrator.domain.method_entry import MethodEntry
from orchestrator.domain.numbers import LARGEST, Count, Length, Number, NumSamples, Seed
from orchestrator.domain.problems import problem
from orchestrator.domain.task_entry import TaskEntry

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
NAME_RULE = "letters, digits, '.', '_' and '-', at most 64, starting with one"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class YarnRope(_Frozen):
    """YaRN with one fixed factor for every length."""

    yarn_factor: Number = Field(ge=1.0, le=10_000.0)
    original_tokens: Count = 32768


class ModelEntry(_Frozen):
    """One model of the campaign and how an engine loads it."""

    name: Label
    """Label in tables; unique. Default: the last part of `source`."""
    source: StrictStr
    """Short name (`frontier models list`), folder, or hub id."""
    revision: StrictStr | None = None
    """Hub revision; a commit hash makes the cells' keys equal on every machine."""
    tensor_parallel: Count = 1
    tensor_parallel_by_gpu: dict[StrictStr, Count] = Field(default_factory=dict)
    """`tensor_parallel` on hosts of these types, as Ray names them (`H200: 2`); the number above on all others."""
    pipeline_parallel: Count = 1
    """Stages that the layers are cut into; an engine takes tensor_parallel × pipeline_parallel GPUs."""
    nodes_per_engine: Count = 1
    """Hosts that one engine spans, in equal shares. 1: an engine is never split over hosts."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_context: Count | None = Field(default=None, ge=16)
    """Tokens of prompt and output that the model takes; default from its config.json."""
    rope: Literal["native", "yarn_per_length"] | YarnRope = "native"
    """`native`; `yarn_per_length`: the paper's rule, factor (length + output) / 32768 beyond 32768 tokens;
    or a mapping with a fixed `yarn_factor`."""
    load_format: Literal["auto", "dummy"] = "auto"
    max_in_flight: Count = 16
    kv_cache_gib: Number | None = Field(default=None, gt=0)
    gpu_memory_utilization: Number = Field(default=0.9, gt=0, le=1)
    options: dict[str, Any] = Field(default_factory=dict)
    """Further engine arguments, passed through."""

    @model_validator(mode="before")
    @classmethod
    def _from_short_form(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = {"source": value}
        if isinstance(value, dict) and isinstance(value.get("source"), str) and "name" not in value:
            value = {**value, "name": re.split(r"[/\\]", value["source"].rstrip("/\\"))[-1]}
        return value

    @model_validator(mode="after")
    def _hosts_share_evenly(self) -> ModelEntry:
        for tensor_parallel in (self.tensor_parallel, *self.tensor_parallel_by_gpu.values()):
            gpus = tensor_parallel * self.pipeline_parallel
            if gpus % self.nodes_per_engine:
                raise problem(
                    f"nodes_per_engine is {self.nodes_per_engine}; it must divide the {gpus} GPUs of one engine "
                    f"(tensor_parallel {tensor_parallel} × pipeline_parallel {self.pipeline_parallel})",
                    "nodes_per_engine",
                )
        return self


class Sampling(_Frozen):
    """How tokens are drawn; the default is greedy."""

    temperature: Number = Field(default=0.0, ge=0)
    top_p: Number = Field(default=1.0, gt=0, le=1)
    top_k: StrictInt = Field(default=0, ge=0, le=LARGEST)

    def to_wire(self) -> dict[str, Any]:
        return {} if self == Sampling() else self.model_dump()


class CampaignSpec(_Frozen):
    """One submitted question. Cells = models × methods with budgets × tasks × lengths × seeds."""

    name: StrictStr
    description: StrictStr = ""
    models: tuple[ModelEntry, ...] = Field(min_length=1)
    methods: tuple[MethodEntry, ...] = Field(min_length=1)
    tasks: tuple[TaskEntry, ...] = Field(min_length=1)
    lengths: tuple[Length, ...] = Field(min_length=1)
    """Target prompt lengths after the chat template, tokens."""
    samples: NumSamples = 100
    """Samples a cell."""
    seed: Seed | tuple[Seed, ...] = 43
    """One seed, or several (an axis)."""
    max_output_tokens: Count | None = None
    """Default: each task's own limit."""
    scoring: Literal["default", "sparse_frontier_v1"] = "default"
    sampling: Sampling = Sampling()
    shard_samples: Count | None = None
    """Samples a shard; default: chosen by the scheduler."""
    priority: StrictInt = Field(default=0, ge=-LARGEST - 1, le=LARGEST)
    """Among campaigns on one cluster, larger goes first."""
    gpu_hours: Number | None = Field(default=None, gt=0)
    """Stop dispatching after this many GPU-hours."""
    pair_methods: StrictBool = True
    """Run the same prompts under all methods close in time."""

    @field_validator("name")
    @classmethod
    def _name_is_plain(cls, name: str) -> str:
        if not NAME.fullmatch(name):
            raise problem(f"name {name!r} must be {NAME_RULE}")
        return name

    @property
    def seeds(self) -> tuple[int, ...]:
        return (self.seed,) if isinstance(self.seed, int) else self.seed

    @model_validator(mode="after")
    def _names_are_unique(self) -> CampaignSpec:
        _refuse_duplicates("models", "name", [m.name for m in self.models])
        _refuse_duplicates("methods", "name", [m.name for m in self.methods])
        _refuse_duplicates("tasks", "name", [t.name for t in self.tasks])
        _refuse_duplicates("lengths", "", [str(n) for n in self.lengths])
        if not self.seeds:
            raise problem("seed is an empty list", "seed")
        _refuse_duplicates("seed", "", [str(n) for n in self.seeds])
        return self


def _refuse_duplicates(axis: str, field: str, names: Sequence[str]) -> None:
    for index, name in enumerate(names):
        if name in names[:index]:
            what = f"{field} {name!r}" if field else name
            raise problem(f"duplicate {what} in {axis}", axis, index, *([field] if field else []))
