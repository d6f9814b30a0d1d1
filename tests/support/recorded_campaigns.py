"""A small campaign with recorded outcomes in a real store, written through the store's own doors."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from itertools import product

import sqlalchemy as sa

from orchestrator.domain.grid import Cell
from orchestrator.domain.states import CampaignState, Ending, WorkerState
from orchestrator.store import fleet, leases, outcomes, schema
from orchestrator.store.campaigns import NewCampaign, Settings, change_state, create_campaign, hold, take_over
from orchestrator.store.engine_record import engine_key
from orchestrator.store.leases import Claim
from orchestrator.store.session import Store
from workers.engine import EngineSpec
from workers.failures import Failure, FailureKind
from workers.protocol import SampleOutcome, TaskOrder

TASKS = ("ruler_niah", "qa_squad")
BUDGETS = (128, 512)
LENGTHS = (1024, 2048)
SAMPLES = 12
Score = Callable[[str, int], float]


def engine_of(model: str) -> EngineSpec:
    return EngineSpec(model=f"/models/{model}", model_fingerprint=f"sha-{model}", max_model_len=4096)


def recorded_cells(models: tuple[str, ...] = ("Qwen2.5-7B-Instruct", "own-9B")) -> list[Cell]:
    """Dense and Quest at two budgets, on the same prompts."""
    methods = [({}, "dense", "")]
    methods += [({"decode": {"name": "quest", "token_budget": b}}, "quest", f"token_budget={b}") for b in BUDGETS]
    return [
        Cell(
            key=hashlib.sha256(f"{model} {task} {length} {label} {budget}".encode()).hexdigest()[:24],
            model_name=model,
            engine=engine_of(model),
            task=TaskOrder(name=task, version=1, parameters={}),
            task_label=task,
            length_tokens=length,
            seed=43,
            num_samples=SAMPLES,
            method=wire,
            method_label=label,
            budget=budget,
            max_output_tokens=64,
        )
        for model, task, length, (wire, label, budget) in product(models, TASKS, LENGTHS, methods)
    ]


def default_score(cell_key: str, index: int) -> float:
    """A fixed pattern of halves and wholes that differs between cells."""
    return hashlib.sha256(f"{cell_key} {index}".encode()).digest()[0] % 3 / 2


def record_campaign(
    store: Store, name: str = "recorded", *, share: float = 1.0, score: Score = default_score, models: int = 2
) -> None:
    """Create the campaign and record the first `share` of its shards' outcomes; then let go of it."""
    cells = recorded_cells(("Qwen2.5-7B-Instruct", "own-9B")[:models])
    create_campaign(
        store, NewCampaign(name=name, cells=cells, spec={"n": models}, settings=Settings(samples_per_shard=6))
    )
    fence = take_over(store, name, "test", ttl_seconds=60)
    with store.write() as connection:
        grip = hold(connection, fence)
        change_state(connection, fence.campaign_id, grip.now, CampaignState.RUNNING, "test")
        grip = hold(connection, fence)
        claims: list[Claim] = []
        keys = sa.select(schema.cells.c.id, schema.cells.c.key).where(schema.cells.c.campaign_id == fence.campaign_id)
        keys_by_id = {row.id: row.key for row in connection.execute(keys)}
        by_id = {i: cell for i, key in keys_by_id.items() for cell in cells if cell.key == key}
        for model in dict.fromkeys(cell.model_name for cell in cells):
            key = engine_key(engine_of(model))
            worker = fleet.register(
                connection, grip, name=f"{name}-{model}", pool="test", engine_key=key, model_name=model
            )
            fleet.become(connection, grip, [worker], WorkerState.READY, "test")
            claims += leases.claim(
                connection, grip, worker_id=worker, engine_key=key, num_shards=10_000, lease_seconds=60,
                num_losses_allowed=3,
            )  # fmt: skip
        for claim in claims[: round(share * len(claims))]:
            reported = [recorded_outcome(claim, by_id[claim.cell_id], index, score) for index in claim.indices]
            outcomes.record(connection, grip, reported)
    _let_go(store, name)


def recorded_outcome(claim: Claim, cell: Cell, index: int, score: Score) -> SampleOutcome:
    """Every verdict occurs; texts hold what breaks careless formats."""
    value = score(cell.key, index)
    prompt = f"{cell.model_name} {cell.task_label} {cell.length_tokens} {index}"
    failure = None
    if index == 5:
        failure = Failure(kind=FailureKind.OVER_LENGTH, message='too long, "very"\nindeed', where="generate")
    verdict = "unscored" if failure else "unanswered" if index == 7 else "correct" if value == 1 else "incorrect"
    return SampleOutcome(
        attempt_id=claim.attempt_id,
        shard_id=claim.shard_id,
        cell_key=cell.key,
        index=index,
        sample_key=hashlib.sha256(prompt.encode()).hexdigest()[:16],
        prompt_hash=hashlib.sha256(f"p {prompt}".encode()).hexdigest()[:16],
        failure=failure,
        verdict=verdict,
        score=None if failure else 0.0 if index == 7 else value,
        extracted="" if index == 7 else f"answer, {index}",
        reason='no <answer> "tag"' if index == 7 else "",
        completion=f"<b>line one</b>,\n\tline two; é \u202e {index} </script><script>alert(1)</script> $x$",
        finish_reason="stop",
        num_prompt_tokens=cell.length_tokens - 10,
        num_output_tokens=20 + index,
        density_prefill=1.0,
        density_decode=0.25 if cell.method else 1.0,
        kv_kept=1.0,
        num_decode_steps=19 + index,
        seconds_to_first_token=0.5 + index / 7,
        seconds_decode=0.1 + index / 3,
        seconds_total=0.7 + index,
        extras={"f1": 0.1 + 0.2, "note": "é"} if index == 3 else {},
    )


def _let_go(store: Store, name: str) -> None:
    campaigns, attempts = schema.campaigns, schema.attempts
    with store.write() as connection:
        connection.execute(sa.update(campaigns).where(campaigns.c.name == name).values(orchestrator=None))
        is_open = attempts.c.closed_at.is_(None)
        connection.execute(
            sa.update(attempts).where(is_open).values(closed_at=attempts.c.opened_at, ending=Ending.RELEASED)
        )
