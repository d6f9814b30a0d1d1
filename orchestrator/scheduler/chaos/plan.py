"""A chaos plan: the campaign, the cluster and the faults, from a YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from orchestrator.domain.grid import Cell
from orchestrator.errors import UserError
from workers.engine import EngineSpec
from workers.protocol import TaskOrder

FaultName = Literal[
    "worker_killed",
    "engine_killed",
    "worker_frozen",
    "orchestrator_killed",
    "orchestrator_killed_while_resuming",
    "orchestrator_twice",
    "orchestrator_frozen_and_replaced",
    "orchestrator_drained",
    "clock_skewed",
    "raylet_killed",
    "node_frozen",
    "node_drained",
    "store_blocked",
    "store_restarted",
    "store_away_long",
    "spool_disk_full",
    "spool_torn",
    "paused_and_resumed",
]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EnginePlan(_Strict):
    """The fake engine's speed, and the prompts that break it."""

    seconds: float = Field(default=0.5, ge=0)
    max_in_flight: int = Field(default=8, ge=1)
    poison_share: float = Field(default=0.0, ge=0, le=1)
    hang_share: float = Field(default=0.0, ge=0, le=1)
    refuse_share: float = Field(default=0.0, ge=0, le=1)
    stall_seconds: float = Field(default=4.0, gt=0)


class ChaosPlan(_Strict):
    """What `frontier chaos` does."""

    seed: int = 0
    samples: int = Field(default=1000, ge=1)
    """In all, spread evenly over the cells."""
    cells: int = Field(default=10, ge=1)
    shard_samples: int = Field(default=20, ge=1)
    nodes: int = Field(default=2, ge=1)
    """Raylets besides the head's, all on this machine."""
    workers_per_node: int = Field(default=2, ge=1)
    ray: str | None = None
    """Address of a cluster to use instead; faults that take nodes apart are then left out."""
    store: Literal["sqlite", "postgresql"] = "sqlite"
    """A fresh one in the drill's folder; PostgreSQL is started for the drill."""
    num_faults: int = Field(default=50, ge=0)
    seconds_between_faults: float = Field(default=1.0, gt=0)
    store_away_seconds: float = Field(default=60.0, gt=0)
    lease_seconds: float = Field(default=6.0, gt=0)
    max_seconds: float = Field(default=1800.0, gt=0)
    engine: EnginePlan = EnginePlan()
    faults: dict[FaultName, float]
    """Weight of each kind; a kind that is missing is not injected."""
    once: tuple[FaultName, ...] = ()
    """Kinds that are injected a single time, in this order, spread over the run."""

    def can_inject(self, name: str) -> bool:
        """Some faults need a cluster of our own, or one of the databases."""
        if self.ray is not None and name in ("raylet_killed", "node_frozen", "node_drained"):
            return False
        return name != ("store_restarted" if self.store == "sqlite" else "store_blocked")

    def grid(self) -> list[Cell]:
        """Synthetic cells in pairs of methods on the same prompts."""
        each, rest = divmod(self.samples, self.cells)
        return [self._cell(position, each + (position < rest)) for position in range(self.cells)]

    def _cell(self, position: int, num_samples: int) -> Cell:
        shares = ("poison_share", "hang_share", "refuse_share")
        options = {name: getattr(self.engine, name) for name in shares if getattr(self.engine, name)}
        sparse = {"decode": {"name": "quest", "token_budget": 64}} if position % 2 else {}
        return Cell(
            key=f"chaos-{position}",
            model_name="fake",
            engine=EngineSpec(
                model="fake",
                max_model_len=256,
                max_in_flight=self.engine.max_in_flight,
                options={**options, "seconds": self.engine.seconds, "process": True},
            ),
            task=TaskOrder(name="synthetic", version=1, parameters={}),
            task_label="synthetic",
            length_tokens=48,
            seed=position // 2,
            num_samples=num_samples,
            method=sparse,
            method_label="quest" if sparse else "dense",
            max_output_tokens=16,
        )


def load_plan_file(path: Path) -> ChaosPlan:
    """Raises UserError with one line for a file that is missing, no YAML, or wrong."""
    try:
        plain: Any = YAML(typ="safe").load(path.read_text())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    except YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    try:
        return ChaosPlan.model_validate(plain)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{path}: {place}: {first['msg']}") from None
