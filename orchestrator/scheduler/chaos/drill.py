"""A drill from beginning to end: the undisturbed campaign, the same one under faults, and the comparison."""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.domain.grid import Cell
from orchestrator.domain.states import CampaignState
from orchestrator.errors import StoreError, UserError
from orchestrator.scheduler.campaign import run_campaign
from orchestrator.scheduler.chaos.cluster import DrillCluster
from orchestrator.scheduler.chaos.faults import FAULTS
from orchestrator.scheduler.chaos.plan import ChaosPlan
from orchestrator.scheduler.chaos.postgres import PostgresMissing, PostgresServer
from orchestrator.scheduler.chaos.report import releases_after, starts_and_loads, wrong_charges
from orchestrator.scheduler.chaos.world import Orchestrators, World
from orchestrator.scheduler.inline_pool import InlinePool
from orchestrator.scheduler.settings import LoopSettings
from orchestrator.store import views
from orchestrator.store.campaigns import NewCampaign, Settings, create_campaign
from orchestrator.store.session import Store, StoreUnavailable, open_store
from orchestrator.store.verify import Proof, verify_campaign

CAMPAIGN = "chaos"
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillReport:
    """What a drill found."""

    seed: int
    store: str
    seconds: float
    faults: dict[str, int]
    """Faults that were injected, by kind."""
    struck: dict[str, int]
    """Samples that broke the engine or were refused, by recorded kind; they are faults too."""
    proof: Proof
    reference: Proof
    num_refused: int
    """Outcomes of stale attempts that the fence turned away."""
    num_orchestrators: int
    num_workers: int
    release_p50_seconds: float | None
    """From the killing of a worker to a new lease of its samples, the long outages of the store left out."""
    release_p99_seconds: float | None
    state: CampaignState
    problems: tuple[str, ...] = ()

    @property
    def num_faults(self) -> int:
        return sum(self.faults.values()) + sum(self.struck.values())

    @property
    def passed(self) -> bool:
        return not self.problems


def run_drill(plan: ChaosPlan, folder: Path, say: Say) -> DrillReport:
    """Run the plan in `folder`, which is emptied of earlier drills. Ends every process that it started."""
    folder.mkdir(parents=True, exist_ok=True)
    for left in ("spool", "store.sqlite", "store.sqlite-wal", "store.sqlite-shm", "reference.sqlite"):
        path = folder / left
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    say(f"undisturbed run of {plan.samples:,} samples")
    reference = _undisturbed(plan, folder)
    started = time.monotonic()
    with _world(plan, folder, say) as world:
        faults = _disturb(world, say)
        return _judge(world, faults, reference, time.monotonic() - started)


def _undisturbed(plan: ChaosPlan, folder: Path) -> Proof:
    """The same cells on one thread, without delays or child processes; poisoned prompts are poisoned here too."""
    calm = plan.model_copy(update={"engine": plan.engine.model_copy(update={"seconds": 0.0})})
    with open_store(f"sqlite:///{folder / 'reference.sqlite'}") as store:
        cells = [
            replace(c, engine=replace(c.engine, options={**c.engine.options, "process": False})) for c in calm.grid()
        ]
        _create(store, plan, cells)
        settings = LoopSettings(tick_seconds=0.01, look_seconds=0.1, stall_seconds=0.3, canary_seconds=0.0)
        run_campaign(store, CAMPAIGN, InlinePool(1), settings=settings)
        return verify_campaign(store, CAMPAIGN)


def _create(store: Store, plan: ChaosPlan, cells: list[Cell]) -> None:
    settings = Settings(samples_per_shard=plan.shard_samples)
    create_campaign(
        store, NewCampaign(name=CAMPAIGN, cells=cells, spec={"chaos": plan.seed}, engine_name="fake", settings=settings)
    )


@contextmanager
def _world(plan: ChaosPlan, folder: Path, say: Say) -> Iterator[World]:
    with ExitStack() as stack:
        postgres = None
        url = f"sqlite:///{folder / 'store.sqlite'}"
        if plan.store == "postgresql":
            postgres = _start_postgres()
            stack.callback(postgres.stop)
            url = postgres.database()
        store = stack.enter_context(open_store(url))
        _create(store, plan, plan.grid())
        cluster = None
        if plan.ray is None:
            say(f"starting a Ray cluster of {plan.nodes} nodes")
            cluster = DrillCluster(folder, plan.workers_per_node)
            stack.callback(cluster.stop)
            for _ in range(plan.nodes):
                cluster.add_node()
        job: dict[str, object] = {
            "store": url,
            "campaign": CAMPAIGN,
            "address": cluster.address if cluster else plan.ray,
            "num_workers": plan.nodes * plan.workers_per_node,
            "lease_seconds": plan.lease_seconds,
            "stall_seconds": plan.engine.stall_seconds,
            "spool_folder": str(folder / "spool"),
        }
        orchestrators = Orchestrators(folder, job)
        stack.callback(orchestrators.kill_all)
        world = World(plan, folder, store, url, cluster, postgres, orchestrators, random.Random(plan.seed))
        stack.callback(lambda: world.undo_due(everything=True))
        yield world


def _start_postgres() -> PostgresServer:
    try:
        return PostgresServer()
    except PostgresMissing as missing:
        raise UserError(str(missing)) from None


def _disturb(world: World, say: Say) -> Counter[str]:
    """Inject faults until the campaign is finished; keep an orchestrator alive all the time."""
    plan, counts = world.plan, Counter[str]()
    deadline = time.monotonic() + plan.max_seconds
    schedule = deque(_schedule(plan, world.random))
    world.orchestrators.start()
    next_at = time.monotonic()
    while time.monotonic() < deadline and not _is_complete(world):
        world.undo_due()
        if world.orchestrators.current is None:
            world.orchestrators.start()
        if schedule and not world.is_ready_for(schedule[0]):
            schedule.rotate(-1)
        elif schedule and time.monotonic() >= next_at:
            name = schedule.popleft()
            if _inject(world, name, counts, say):
                next_at = time.monotonic() + world.random.expovariate(1.0 / plan.seconds_between_faults)
            else:
                schedule.append(name)
                next_at = time.monotonic() + 0.5
        time.sleep(0.1)
    world.undo_due(everything=True)
    return counts


def _schedule(plan: ChaosPlan, source: random.Random) -> list[str]:
    """Kinds in the order of injection: drawn by weight, those of `once` spread evenly between."""
    kinds = sorted(k for k in plan.faults if plan.can_inject(k))
    drawn: list[str] = list(source.choices(kinds, [plan.faults[k] for k in kinds], k=plan.num_faults)) if kinds else []
    for place, name in enumerate(k for k in plan.once if plan.can_inject(k)):
        drawn.insert((place + 1) * plan.num_faults // (len(plan.once) + 1) + place, name)
    return drawn


def _inject(world: World, name: str, counts: Counter[str], say: Say) -> bool:
    try:
        told = FAULTS[name](world)
    except (StoreError, UserError, RuntimeError, OSError) as error:
        say(f"{name}: could not be injected: {error}")
        return False
    if told is not None:
        counts[name] += 1
        say(f"{sum(counts.values())} {name}: {told}")
    return told is not None


def _is_complete(world: World) -> bool:
    with suppress(StoreUnavailable):
        return views.campaign_header(world.store, CAMPAIGN).state is CampaignState.COMPLETE
    return False


def _judge(world: World, faults: Counter[str], reference: Proof, seconds: float) -> DrillReport:
    header = views.campaign_header(world.store, CAMPAIGN)
    proof = verify_campaign(world.store, CAMPAIGN)
    struck = Counter(str(o.failure_kind) for o in views.iter_outcomes(world.store, CAMPAIGN) if o.failure_kind)
    waits = releases_after(world.store, world.kills, world.outages)
    refused, num_workers = starts_and_loads(world.store)
    problems = [*proof.problems, *wrong_charges(world.store)]
    if header.state is not CampaignState.COMPLETE:
        problems.append(f"the campaign is {header.state}, with {header.num_recorded} of {header.num_samples} samples")
    if proof.manifest != reference.manifest:
        problems.append("the outcomes differ from those of the undisturbed run")
    return DrillReport(
        seed=world.plan.seed,
        store=world.plan.store,
        seconds=seconds,
        faults=dict(sorted(faults.items())),
        struck=dict(sorted(struck.items())),
        proof=proof,
        reference=reference,
        num_refused=refused,
        num_orchestrators=world.orchestrators.num_started,
        num_workers=num_workers,
        release_p50_seconds=waits[len(waits) // 2] if waits else None,
        release_p99_seconds=waits[min(len(waits) - 1, int(len(waits) * 0.99))] if waits else None,
        state=header.state,
        problems=tuple(problems),
    )
