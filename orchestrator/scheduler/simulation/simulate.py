"""Run a whole campaign through the production loop and the real store, on simulated nodes and a simulated clock."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil, exp
from pathlib import Path

from orchestrator.domain.campaign_cost import CampaignCost, EngineKind, engine_key
from orchestrator.domain.fleet import Fleet
from orchestrator.domain.grid import Cell
from orchestrator.domain.ordering import cut_shards
from orchestrator.scheduler.loop import CampaignLoop
from orchestrator.scheduler.settings import LoopSettings
from orchestrator.scheduler.simulation.baselines import BASELINES, BaselineResult, Work
from orchestrator.scheduler.simulation.faults import FaultTrace, draw_faults, lower_bound
from orchestrator.scheduler.simulation.sim_clock import SimClock
from orchestrator.scheduler.simulation.sim_pool import Account, SimPool
from orchestrator.scheduler.simulation.sim_worker import SampleTime
from orchestrator.store.campaigns import NewCampaign, create_campaign, take_over
from orchestrator.store.plan import load_plan
from orchestrator.store.session import Store, open_store
from workers.engine import EngineSpec
from workers.protocol import ShardOrder

SECONDS_A_FOLD = 13_000.0
"""Of the ideal duration, for each sample that is folded into one: ten 128k samples of a 72B model last 300 s."""
MOST_FOLD = 10
MOST_FOLDED = 300_000
"""Folded samples in a simulation, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What happens during a simulation."""

    mtbf_seconds: float | None = None
    """Mean time between losses of one node; None: no faults."""
    away_seconds: float = 600.0
    """A lost node is back, cold, after so long."""
    load_scale: float = 1.0
    """On the predicted time of an engine load."""
    noise: float = 0.2
    """Standard deviation (log) of the true seconds of a cell around the predicted ones."""
    seed: int = 0
    fold: int | None = None
    """Samples that are simulated as one; what a lost node throws away, and how evenly engines end, is coarser by this.
    None: `choose_fold`."""
    step_seconds: float | None = None
    """Time between two rounds of the loop, at most; None: a thousandth of the campaign, 5 to 120 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationResult:
    """How the campaign went."""

    makespan_seconds: float
    lower_bound_seconds: float
    useful_gpu_seconds: float
    offered_gpu_seconds: float
    """By nodes that were up, until the end."""
    account: Account
    least_loads: int
    """No schedule that ends as early as this one gets by with fewer: each kind's work over the makespan, rounded up
    (an engine cannot run for longer), and one load for every engine that a fault took."""
    num_shards: int
    num_rounds: int
    baselines: Mapping[str, BaselineResult] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        return self.makespan_seconds / self.lower_bound_seconds

    @property
    def busy_share(self) -> float:
        return self.useful_gpu_seconds / self.offered_gpu_seconds

    @property
    def load_share(self) -> float:
        return self.account.loading / self.offered_gpu_seconds

    @property
    def lost_share(self) -> float:
        return (self.account.cut + self.account.busy - self.useful_gpu_seconds) / self.offered_gpu_seconds


class Simulation:
    """One campaign on one fleet under one scenario."""

    def __init__(self, cells: Sequence[Cell], fleet: Fleet, scenario: Scenario, *, shard_samples: int | None = None):
        """Raises ModelError for a model of unknown shape."""
        self._scenario, self._fleet = scenario, fleet
        self._cost = CampaignCost(cells, fleet.groups[0].gpu)
        self.fold = scenario.fold or choose_fold(cells, self._cost, fleet)
        self._shard_samples = ceil(shard_samples / self.fold) if shard_samples else None
        self.num_shards = 0
        self._cells = {cell.key: _fold(cell, self.fold) for cell in cells}
        self._weight = {cell.key: cell.num_samples / self._cells[cell.key].num_samples for cell in cells}
        rng = random.Random(scenario.seed)
        self._truth = {
            cell.key: self._predicted(cell) * exp(rng.gauss(0.0, scenario.noise) - scenario.noise**2 / 2)
            for cell in cells
        }
        self._nodes = fleet.nodes()
        self.useful_gpu_seconds = sum(
            self._truth[c.key] * c.num_samples * c.engine.num_gpus for c in self._cells.values()
        )
        ideal = self.useful_gpu_seconds / fleet.num_gpus
        self._step = scenario.step_seconds or min(120.0, max(5.0, ideal / 1000))
        mtbf, away = scenario.mtbf_seconds, scenario.away_seconds
        self._trace: FaultTrace = draw_faults(
            self._nodes, mtbf_seconds=mtbf, away_seconds=away, horizon_seconds=5 * ideal + 3600, seed=scenario.seed
        )

    def run(self) -> SimulationResult:
        """The production loop until the campaign is complete."""
        clock = SimClock()
        with tempfile.TemporaryDirectory() as folder, open_store(f"sqlite:///{Path(folder) / 'store'}") as store:
            clock.rule(store)
            pool = self._pool(clock)
            rounds = self._drive(store, clock, pool)
        bound = lower_bound(self._nodes, self._trace, self.useful_gpu_seconds)
        return SimulationResult(
            makespan_seconds=clock.now,
            lower_bound_seconds=bound,
            useful_gpu_seconds=self.useful_gpu_seconds,
            offered_gpu_seconds=self._offered(clock.now),
            account=pool.account,
            least_loads=self._least_loads(clock.now) + pool.account.num_forced,
            num_shards=self.num_shards,
            num_rounds=rounds,
        )

    def baselines(self) -> dict[str, BaselineResult]:
        """What static splitting and first-in-first-out make of the same work and faults."""
        work = [self._work(cell) for cell in self._cells.values()]
        return {name: policy(self._nodes, self._trace, work) for name, policy in BASELINES.items()}

    def _pool(self, clock: SimClock) -> SimPool:
        return SimPool(
            self._nodes,
            self._trace,
            clock,
            time_of=self._time_of,
            load_seconds=self._load_seconds,
            step_seconds=self._step,
        )

    def _drive(self, store: Store, clock: SimClock, pool: SimPool) -> int:
        cells = list(self._cells.values())
        cuts = cut_shards(cells, self._predicted, shard_samples=self._shard_samples)
        campaign = NewCampaign(name="simulation", cells=cells, spec={}, engine_name="simulated", cuts=cuts)
        create_campaign(store, campaign)
        self.num_shards = len(cuts)
        fence = take_over(store, "simulation", "simulation", ttl_seconds=1e9)
        loop = CampaignLoop(store, fence, load_plan(store, fence), pool, self._settings(), clock)
        loop.start()
        rounds = 1
        while loop.tick():
            rounds += 1
        pool.close()
        return rounds

    def _settings(self) -> LoopSettings:
        return LoopSettings(
            tick_seconds=0.0, look_seconds=0.0, lease_seconds=20 * self._step, record_seconds=3600.0, canary_seconds=0.0
        )

    def _time_of(self, order: ShardOrder) -> SampleTime:
        cell = self._cells[order.cell_key]
        kind = self._kind(cell)
        folded = kind.in_flight(cell.length_tokens) / self.fold
        return SampleTime(self._truth[cell.key], max(1.0, folded))

    def _predicted(self, cell: Cell) -> float:
        """Engine seconds that the scheduler expects of one folded sample."""
        return self._cost.seconds(cell) * self._weight[cell.key]

    def _kind(self, cell: Cell) -> EngineKind:
        return self._cost.engine_of(cell)

    def _load_seconds(self, engine: EngineSpec) -> float:
        return self._cost.engines[engine_key(engine)].load_seconds * self._scenario.load_scale

    def _offered(self, until: float) -> float:
        gpus = {node.name: node.num_gpus for node in self._nodes}
        away = sum((min(o.end, until) - o.start) * gpus[o.node] for o in self._trace.outages if o.start < until)
        return self._fleet.num_gpus * until - away

    def _least_loads(self, makespan: float) -> int:
        seconds: dict[str, float] = {}
        for cell in self._cells.values():
            key = self._kind(cell).key
            seconds[key] = seconds.get(key, 0.0) + self._truth[cell.key] * cell.num_samples
        return sum(ceil(total / makespan) for total in seconds.values())

    def _work(self, cell: Cell) -> Work:
        kind = self._kind(cell)
        seconds = self._truth[cell.key]
        folded = max(1.0, kind.in_flight(cell.length_tokens) / self.fold)
        return Work(
            engine=kind.key,
            gpus=kind.gpus,
            seconds=seconds * cell.num_samples,
            load_seconds=kind.load_seconds * self._scenario.load_scale,
            expected_seconds=self._predicted(cell) * cell.num_samples,
            in_flight_seconds=seconds * folded / 2,
        )


def choose_fold(cells: Sequence[Cell], cost: CampaignCost, fleet: Fleet) -> int:
    """So many samples in one that long ones stay short beside the campaign, and that the simulation stays quick."""
    gpu_seconds = sum(cost.seconds(cell) * cell.num_samples * cell.engine.num_gpus for cell in cells)
    short = int(gpu_seconds / fleet.num_gpus / SECONDS_A_FOLD)
    quick = ceil(sum(cell.num_samples for cell in cells) / MOST_FOLDED)
    return max(1, quick, min(MOST_FOLD, short))


def _fold(cell: Cell, fold: int) -> Cell:
    """The cell with `fold` samples in one, and as many fewer of them in flight."""
    in_flight = max(1, ceil(cell.engine.max_in_flight / fold))
    engine = replace(cell.engine, max_in_flight=in_flight)
    return replace(cell, num_samples=ceil(cell.num_samples / fold), engine=engine)
