"""How many engines of each kind, so that all work ends together with few loads.

If every GPU worked to the end, the campaign would end after T = remaining GPU-seconds / GPUs. Loads are saved by
ending a little later: after the *horizon*, T plus a tolerance. A kind whose engines cannot finish its work within the
horizon needs further loads (those are *wanted*: worth their time); a kind that can needs some of its engines for a part
of the horizon only, and the time that they spare is a window for others. `engine_packing` fits the loads into free GPUs
and windows, and an engine makes way when the window that was given away begins. What is wanted and fits on free GPUs
in any arrangement starts at once (`filling`): GPUs stay idle only where no further load is worth its time.

Of several tolerances the smallest is aimed at that saves as many loads as the largest: predictions err, and what they
err by later is then taken from the room that is left instead of costing loads. GPUs that stand idle or load use the
tolerance up, so that the end does not slip.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil

from orchestrator.domain.engine_packing import Packing, Piece, Window, pack, smallest_gang
from orchestrator.domain.filling import Wanted, place_engines, place_spanning
from orchestrator.domain.placement import Demand, Node, Placement

TOLERANCE_SHARES = (0.016, 0.014, 0.012, 0.010)
"""Of the campaign's ideal duration at its start: how much later it may end to save loads."""
LEAST_RUN_SHARE = 0.001
"""Of the same: no load for less, and none that does not let each engine of its kind end so much sooner."""
EARLY = 0.25
"""An engine makes way at the last moment at which the work that follows fits, or this share of its leeway earlier."""
MOST_WINDOWS = 1000


@dataclass(frozen=True, slots=True)
class _Plan:
    """What one horizon asks for, and where it would go."""

    horizon: float
    wanted: tuple[Wanted, ...]
    spanning: tuple[Placement, ...]
    nodes: tuple[Node, ...]
    """With what the spanning gangs leave free."""
    packing: Packing

    @property
    def cost(self) -> tuple[float, int]:
        """Smaller is better: work without a place (in steps of a hundredth of the horizon), then loads."""
        return self.packing.left_over // (self.horizon * 0.01), len(self.packing.placed) + len(self.spanning)


def ideal_seconds(demands: Iterable[Demand], num_gpus: int) -> float:
    """T: the time until all is done if every GPU works to the end."""
    return sum(d.remaining_seconds * smallest_gang(d) for d in demands) / max(1, num_gpus)


class EngineMix:
    """The decisions for one campaign; knows its ideal duration at the start and the most GPUs that it has had."""

    def __init__(
        self, tolerance_shares: Sequence[float] = TOLERANCE_SHARES, least_run_share: float = LEAST_RUN_SHARE
    ) -> None:
        """`tolerance_shares`: largest first."""
        self._tolerance_shares, self._least_run_share = tuple(tolerance_shares), least_run_share
        self._whole: float | None = None
        self._num_gpus = self._num_idle = 0
        self._wasted = 0.0
        self._noted_at: float | None = None

    def choose(self, nodes: Sequence[Node], demands: Sequence[Demand], now: float = 0.0) -> list[Placement]:
        """Engines to start now on the free GPUs, largest first. `demands` list every kind with work left, with or
        without engines. `now`: seconds on a clock that only goes forward."""
        self._note(nodes, demands, now)
        if not any(node.open_gpus for node in nodes):
            return []
        plan = self._plan(nodes, demands, sum(node.num_gpus for node in nodes))
        planned = [
            Placement(key=p.demand.key, nodes=(p.window.place,), gpus_per_node=p.gpus)
            for p in plan.packing.placed
            if p.starts_now
        ]
        chosen = [*plan.spanning, *place_engines(plan.nodes, plan.wanted, planned)]
        self._note_loads(chosen, demands)
        return sorted(chosen, key=lambda p: -p.gpus_per_node * len(p.nodes))

    def makes_way(self, nodes: Sequence[Node], demands: Sequence[Demand], now: float = 0.0) -> str | None:
        """The kind of which one engine should stop after its shard: the time that it spares is needed elsewhere.

        GPUs that are away for a while count too: else every lost node would shuffle the others.
        """
        self._note(nodes, demands, now)
        if not _able(demands, self._horizon(demands, self._num_gpus, self._tolerance_shares[0])):
            return None
        plan = self._plan(nodes, demands, self._num_gpus)
        needed: dict[str, float] = defaultdict(float)
        for placed in plan.packing.placed:
            needed[placed.window.place] = max(needed[placed.window.place], placed.end)
        due = [d for d in _able(demands, plan.horizon) if _is_due(d, plan.horizon, needed[d.key])]
        return due[0].key if due else None

    def _note(self, nodes: Sequence[Node], demands: Sequence[Demand], now: float) -> None:
        """Time has passed: what stood idle in it is taken off the tolerance."""
        self._num_gpus = max(self._num_gpus, sum(node.num_gpus for node in nodes))
        if nodes:  # more than before only when predictions were corrected
            self._whole = max(self._whole or 0.0, ideal_seconds(demands, self._num_gpus))
        if self._noted_at is not None:
            self._wasted += max(0.0, now - self._noted_at) * self._num_idle / max(1, self._num_gpus)
        self._noted_at, self._num_idle = now, sum(node.open_gpus for node in nodes)

    def _note_loads(self, chosen: Iterable[Placement], demands: Iterable[Demand]) -> None:
        """GPUs that load do no work either."""
        seconds = {demand.key: demand.load_seconds for demand in demands}
        loading = sum(seconds[p.key] * p.gpus_per_node * len(p.nodes) for p in chosen)
        self._wasted += loading / max(1, self._num_gpus)

    def _plan(self, nodes: Sequence[Node], demands: Sequence[Demand], num_gpus: int) -> _Plan:
        """The plan for the smallest tolerance that needs no more loads than the largest."""
        best: _Plan | None = None
        for share in self._tolerance_shares:
            plan = self._plan_for(nodes, demands, self._horizon(demands, num_gpus, share))
            if best is not None and (plan.cost > best.cost or plan.horizon == best.horizon):
                break
            best = plan
        assert best is not None, "there is at least one tolerance"
        return best

    def _plan_for(self, nodes: Sequence[Node], demands: Sequence[Demand], horizon: float) -> _Plan:
        pieces = {demand.key: _pieces_of(demand, horizon, self._least_run) for demand in demands}
        wanted = tuple(Wanted(demand, len(pieces[demand.key])) for demand in demands)
        spanning, left = place_spanning(nodes, wanted)
        on_one_node = [piece for demand in demands if demand.num_nodes == 1 for piece in pieces[demand.key]]
        windows = [*_free_windows(left, horizon), *_spare_windows(demands, horizon, self._least_run)]
        packing = pack(on_one_node, windows, least_seconds=self._least_run)
        return _Plan(horizon, wanted, tuple(spanning), tuple(left), packing)

    def _horizon(self, demands: Sequence[Demand], num_gpus: int, tolerance_share: float) -> float:
        """From now until all should be done; at least two loads, so that no engine runs for less than it loads."""
        tolerance = max(0.0, tolerance_share * (self._whole or 0.0) - self._wasted)
        longest_load = max((d.load_seconds for d in demands), default=0.0)
        return max(ideal_seconds(demands, num_gpus) + tolerance, 2 * longest_load, 1e-9)

    @property
    def _least_run(self) -> float:
        return self._least_run_share * (self._whole or 0.0)


def _able(demands: Iterable[Demand], horizon: float) -> list[Demand]:
    """Kinds that end within the horizon with one engine less."""
    return [d for d in demands if d.num_engines > 1 and d.remaining_seconds <= (d.num_engines - 1) * horizon]


def _is_due(demand: Demand, horizon: float, needed: float) -> bool:
    return needed > 0 and horizon <= needed + EARLY * max(0.0, _spared(demand, horizon) - needed)


def _pieces_of(demand: Demand, horizon: float, least_run: float) -> list[Piece]:
    """The loads that this kind still needs, each with its work; one at least when it has no engine."""
    excess = demand.remaining_seconds - demand.num_engines * horizon
    worth = max(least_run * demand.num_engines, demand.load_seconds if demand.num_engines else 0.0)
    if excess <= worth:
        return []
    whole = horizon - demand.load_seconds
    number = max(1, ceil((excess - worth) / whole))
    if demand.max_engines is not None:
        number = min(number, demand.max_engines - demand.num_engines)
    return [Piece(demand, min(whole, excess - i * whole)) for i in range(number)]


def _free_windows(nodes: Iterable[Node], horizon: float) -> list[Window]:
    """Smallest holes first, so that large ones stay for large gangs."""
    free = sorted((n for n in nodes if n.open_gpus), key=lambda n: (n.open_gpus, n.name))
    return [
        Window(
            n.open_gpus,
            _until(n, horizon),
            n.name,
            is_free=True,
            gpu_type=n.gpu_type,
            seconds_left=n.seconds_left,
        )
        for n in free
    ]


def _until(node: Node, horizon: float) -> float:
    return horizon if node.seconds_left is None else min(horizon, node.seconds_left)


def _spare_windows(demands: Iterable[Demand], horizon: float, least_run: float) -> list[Window]:
    """The time that engines of a kind can spare, by making way or by ending early: it ends with the horizon."""
    windows: list[Window] = []
    for demand in demands:
        spared = _spared(demand, horizon)
        while spared > least_run and len(windows) < MOST_WINDOWS:
            gpus = smallest_gang(demand) // demand.num_nodes
            window = Window(gpus, min(spared, horizon), demand.key, is_free=False, priority=demand.priority)
            windows += [window] * demand.num_nodes
            spared -= horizon
    return windows


def _spared(demand: Demand, horizon: float) -> float:
    return demand.num_engines * horizon - demand.remaining_seconds
