"""The store's promises, on both databases: one open attempt a shard, one outcome a sample, stale writes refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import sqlalchemy as sa

from orchestrator.domain.retry import RetryPolicy
from orchestrator.domain.states import CampaignState
from orchestrator.errors import StoreError
from orchestrator.store import canaries, endings, fleet, leases, outcomes, plan, views
from orchestrator.store.campaigns import CampaignBusy, Fence, Superseded, change_state, hold, let_go, take_over
from orchestrator.store.leases import Claim
from orchestrator.store.schema import attempts, events, shards, suspects
from orchestrator.store.session import Store
from tests.support.campaigns import make_campaign
from workers.exchange import AttemptEnd, CanaryResult, InFlight
from workers.failures import Failure, FailureKind
from workers.protocol import SampleOutcome

POLICY = RetryPolicy()


class Desk:
    """An orchestrator without a loop: claims and records by hand."""

    def __init__(self, store: Store, *, ttl_seconds: float = 60.0, **grid: object) -> None:
        self.store = store
        make_campaign(store, **grid)
        self.fence = take_over(store, "drill", "desk", ttl_seconds=ttl_seconds)
        with store.write() as c:
            plan.begin(c, hold(c, self.fence))
        with store.read() as c:
            self.engine_key = c.scalar(sa.select(shards.c.engine_key))
        self.worker = self.hire("one")

    def hire(self, name: str) -> int:
        with self.store.write() as c:
            grip = hold(c, self.fence)
            return fleet.register(c, grip, name=name, pool="p", engine_key=self.engine_key, model_name="m")

    def claim(self, num: int = 1, *, lease_seconds: float = 60.0, worker: int | None = None) -> list[Claim]:
        with self.store.write() as c:
            return leases.claim(
                c,
                hold(c, self.fence),
                worker_id=worker or self.worker,
                engine_key=self.engine_key,
                num_shards=num,
                lease_seconds=lease_seconds,
                num_losses_allowed=3,
            )

    def record(self, reported: list[SampleOutcome]) -> outcomes.Recorded:
        with self.store.write() as c:
            return outcomes.record(c, hold(c, self.fence), reported)

    def end(self, end: AttemptEnd) -> None:
        with self.store.write() as c:
            endings.end_attempts(c, hold(c, self.fence), [end], POLICY)

    def reap(self, *, flying: bool = True) -> list[int]:
        with self.store.write() as c:
            grip = hold(c, self.fence)
            expired = leases.expired_attempts(c, grip)
            return endings.lose_attempts(c, grip, expired.values(), POLICY, flying=set(expired) if flying else ())


def outcome(claim: Claim, index: int, score: float = 1.0) -> SampleOutcome:
    return SampleOutcome(
        attempt_id=claim.attempt_id,
        shard_id=claim.shard_id,
        cell_key="",
        index=index,
        verdict="correct" if score == 1.0 else "incorrect",
        score=score,
        completion=f"text {index}",
        density_prefill=0.5,
        num_prompt_tokens=10,
        num_output_tokens=2,
    )


def all_of(claim: Claim) -> list[SampleOutcome]:
    return [outcome(claim, i) for i in claim.indices]


def test_a_shard_is_claimed_once(store: Store) -> None:
    desk = Desk(store, num_cells=2, num_samples=10)
    claimed = desk.claim(100)
    assert len(claimed) == 4
    assert desk.claim(100) == []
    assert len({c.attempt_id for c in claimed}) == 4


def test_two_open_attempts_of_a_shard_are_impossible_in_the_database(store: Store) -> None:
    desk = Desk(store, num_cells=1)
    made = desk.claim()[0]
    with store.read() as c:
        row = c.execute(sa.select(attempts).where(attempts.c.id == made.attempt_id)).mappings().one()
    twin = sa.insert(attempts).values(**{k: v for k, v in row.items() if k != "id"})
    with store.write() as c, pytest.raises(sa.exc.IntegrityError):
        c.execute(twin)


def test_a_finished_shard_is_counted_in_its_cell(store: Store) -> None:
    desk = Desk(store, num_cells=2, num_samples=5)
    made = desk.claim()[0]
    done = desk.record([outcome(made, i, score=i / 4) for i in made.indices])
    assert done.num_new == 5
    assert done.finished_shards == (made.shard_id,)
    cell = views.cell_rows(store, "drill")[0]
    assert (cell.num_recorded, cell.num_correct, cell.num_incorrect, cell.num_scored) == (5, 1, 4, 5)
    assert cell.score == pytest.approx(0.5)
    assert cell.score_variance == pytest.approx(0.15625)
    assert cell.density_prefill == pytest.approx(0.5)
    assert cell.density_decode is None
    assert (cell.prompt_tokens, cell.output_tokens) == (50, 10)


def test_a_repeated_report_changes_nothing(store: Store) -> None:
    desk = Desk(store, num_cells=1, num_samples=5)
    made = desk.claim()[0]
    first = all_of(made)
    desk.record(first[:3])
    again = desk.record(first)
    assert (again.num_new, again.num_repeated, again.num_refused) == (2, 3, 0)
    after = desk.record(first)
    assert (after.num_new, after.num_repeated, after.num_refused) == (0, 5, 0)
    assert views.cell_rows(store)[0].num_recorded == 5


def test_a_thousand_stale_writes_are_refused(store: Store) -> None:
    desk = Desk(store, num_cells=4, num_samples=300, samples_per_shard=100)
    old = desk.claim(12, lease_seconds=-1.0)
    assert len(desk.reap()) == 12
    new = desk.claim(12)
    assert {c.shard_id for c in new} == {c.shard_id for c in old}
    stale = [o for c in old for o in all_of(c)]
    result = desk.record(stale)
    assert len(stale) == 1200
    assert (result.num_new, result.num_refused) == (0, 1200)
    assert set(result.stale_attempts) == {c.attempt_id for c in old}
    assert views.campaign_header(store).num_recorded == 0
    assert sum(desk.record(all_of(c)).num_new for c in new) == 1200


def test_stale_writes_cannot_finish_a_shard_halfway(store: Store) -> None:
    desk = Desk(store, num_cells=1, num_samples=5)
    old = desk.claim(lease_seconds=-1.0)[0]
    desk.record(all_of(old)[:2])
    desk.reap()
    new = desk.claim()[0]
    assert new.indices == (2, 3, 4)
    assert desk.record(all_of(old)[2:]).num_refused == 3
    assert desk.record(all_of(new)).num_new == 3


def test_an_outcome_outside_its_shard_is_refused(store: Store) -> None:
    desk = Desk(store, num_cells=1, num_samples=10)
    made = desk.claim()[0]
    assert desk.record([outcome(made, 7)]).num_refused == 1
    assert desk.record([replace(outcome(made, 0), shard_id=made.shard_id + 1)]).num_refused == 1


def test_an_older_orchestrator_can_write_nothing(store: Store) -> None:
    desk = Desk(store, ttl_seconds=-1.0)
    made = desk.claim()[0]
    second = take_over(store, "drill", "other", ttl_seconds=60.0)
    assert second.epoch == desk.fence.epoch + 1
    for act in (desk.claim, desk.reap, lambda: desk.record(all_of(made))):
        with pytest.raises(Superseded, match="another orchestrator"):
            act()
    assert views.campaign_header(store).num_recorded == 0


def test_a_living_orchestrator_is_not_pushed_aside(store: Store) -> None:
    desk = Desk(store)
    with pytest.raises(CampaignBusy, match="desk"):
        take_over(store, "drill", "other", ttl_seconds=5.0)
    assert take_over(store, "drill", "other", ttl_seconds=5.0, is_dead=lambda owner: owner == "desk").epoch == 2
    with pytest.raises(Superseded):
        let_go(store, desk.fence)


def test_samples_in_flight_at_a_crash_run_alone_and_the_culprit_is_quarantined(store: Store) -> None:
    desk = Desk(store, num_cells=1, num_samples=5)
    crash = Failure(kind=FailureKind.ENGINE_CRASH, message="boom", where="engine")
    made = desk.claim()[0]
    flying = tuple(InFlight(index=i, sample_key=f"k{i}") for i in (1, 2, 3))
    desk.end(AttemptEnd(attempt_id=made.attempt_id, failure=crash, in_flight=flying, num_in_flight=3))
    for death in (2, 3):
        made = desk.claim()[0]
        assert made.isolated == ((1, 2, 3) if death == 2 else (2,))
        if death == 2:
            desk.record([outcome(made, 1), outcome(made, 3)])
        alone = (InFlight(index=2, sample_key="k2", prompt_hash="p2"),)
        desk.end(AttemptEnd(attempt_id=made.attempt_id, failure=crash, in_flight=alone, num_in_flight=1))
    rows = {o.sample_index: o for o in views.iter_outcomes(store)}
    assert set(rows) == {1, 2, 3}
    assert rows[2].failure_kind is FailureKind.ENGINE_CRASH
    assert rows[2].sample_key == "k2"
    quarantine = [f for f in views.failure_rows(store) if f.answer == "quarantine"]
    assert [(f.sample_index, f.charged) for f in quarantine] == [(2, True)]
    assert quarantine[0].reproduction.startswith("frontier reproduce drill --cell 0-cell-0 --index 2")
    assert [f for f in views.failure_rows(store) if f.charged] == quarantine
    final = desk.claim()[0]
    assert (final.indices, final.isolated) == ((0, 4), ())
    assert desk.record(all_of(final)).finished_shards == (made.shard_id,)
    with store.read() as c:
        assert c.execute(sa.select(suspects)).all() == []


def test_out_of_memory_halves_what_may_fly(store: Store) -> None:
    desk = Desk(store, num_cells=2, num_samples=5)
    full = Failure(kind=FailureKind.OUT_OF_MEMORY, message="full", where="engine")
    made = desk.claim()[0]
    end = AttemptEnd(attempt_id=made.attempt_id, failure=full, in_flight=(InFlight(index=0),), num_in_flight=8)
    desk.end(end)
    assert [c.max_in_flight for c in desk.claim(2)] == [4, 4]


def test_losing_a_worker_charges_nobody_and_a_silent_killer_is_found_alone(store: Store) -> None:
    desk = Desk(store, num_cells=1, num_samples=3)
    for _ in range(3):
        assert desk.claim(lease_seconds=-1.0)[0].isolated == ()
        desk.reap()
    assert all(not f.charged for f in views.failure_rows(store))
    for _ in range(3):
        made = desk.claim(lease_seconds=-1.0)[0]
        assert made.indices == made.isolated == (0,)
        desk.reap()
    assert [o.sample_index for o in views.iter_outcomes(store)] == [0]
    assert desk.claim()[0].indices == (1,)


def test_a_silent_death_does_not_count_where_engines_have_told(store: Store) -> None:
    desk = Desk(store, num_cells=1, num_samples=1)
    hang = Failure(kind=FailureKind.TIMEOUT, message="no token", where="engine")
    flying = (InFlight(index=0, sample_key="k0", prompt_hash="p0"),)

    def hangs() -> None:
        made = desk.claim()[0]
        desk.end(AttemptEnd(attempt_id=made.attempt_id, failure=hang, in_flight=flying, num_in_flight=1))

    hangs()
    hangs()
    for _ in range(3):
        assert desk.claim(lease_seconds=-1.0)[0].isolated == (0,)
        desk.reap()
    assert list(views.iter_outcomes(store)) == []
    hangs()
    (row,) = views.iter_outcomes(store)
    assert (row.failure_kind, row.sample_key, row.prompt_hash) == (FailureKind.TIMEOUT, "k0", "p0")


def test_silent_deaths_that_go_on_count_in_the_end(store: Store) -> None:
    desk = Desk(store, num_cells=1, num_samples=1)
    crash = Failure(kind=FailureKind.ENGINE_CRASH, message="boom", where="engine")
    made = desk.claim()[0]
    desk.end(AttemptEnd(attempt_id=made.attempt_id, failure=crash, in_flight=(InFlight(index=0),), num_in_flight=1))
    for _ in range(40):
        if not desk.claim(lease_seconds=-1.0):
            break
        desk.reap()
    (row,) = views.iter_outcomes(store)
    assert row.failure_kind is FailureKind.ENGINE_CRASH


def test_a_shard_of_a_lost_worker_comes_first_until_it_has_cost_several(store: Store) -> None:
    desk = Desk(store, num_cells=1, num_samples=15)
    lost = desk.claim(lease_seconds=-1.0)[0]
    for _ in range(POLICY.max_losses_without_progress - 1):
        desk.reap()
        (again,) = desk.claim(lease_seconds=-1.0)
        assert again.shard_id == lost.shard_id
    desk.reap()
    assert lost.shard_id not in {c.shard_id for c in desk.claim(2)}
    assert desk.claim()[0].shard_id == lost.shard_id


def test_orders_that_only_waited_with_a_lost_worker_do_not_count(store: Store) -> None:
    desk = Desk(store, num_cells=1, num_samples=3)
    for _ in range(5):
        assert desk.claim(lease_seconds=-1.0)[0].indices == (0, 1, 2)
        desk.reap(flying=False)


def test_an_attempt_without_explanation_is_charged_and_gives_up(store: Store) -> None:
    desk = Desk(store, num_cells=1, num_samples=5)
    for attempt in range(3):
        if attempt:
            with store.write() as c:
                c.execute(sa.update(shards).values(not_before=0.0))
        made = desk.claim()[0]
        desk.end(AttemptEnd(attempt_id=made.attempt_id))
    assert views.campaign_header(store).shards["failed"] == 1


def test_a_wrong_canary_takes_back_what_came_since_the_good_one(store: Store) -> None:
    desk = Desk(store, num_cells=2, num_samples=5)
    good, bad = CanaryResult(digests={"canary-1": "a"}), CanaryResult(digests={"canary-1": "b"})
    first, second = desk.claim(2)
    desk.record(all_of(first))
    with store.write() as c:
        assert canaries.judge(c, hold(c, desk.fence), desk.worker, good) is None
    desk.record(all_of(second))
    with store.write() as c:
        assert "5 outcomes" in str(canaries.judge(c, hold(c, desk.fence), desk.worker, bad))
    cells = {c.id: c for c in views.cell_rows(store)}
    assert cells[first.cell_id].num_recorded == 5
    assert (cells[second.cell_id].num_recorded, cells[second.cell_id].score_sum) == (0, 0)
    assert desk.claim(2)[0].indices == second.indices


def test_a_paused_campaign_gives_nothing_out(store: Store) -> None:
    desk = Desk(store)
    with store.write() as c:
        grip = hold(c, desk.fence)
        assert change_state(c, grip.campaign_id, grip.now, CampaignState.PAUSED, "test")
        assert not change_state(c, grip.campaign_id, grip.now, CampaignState.COMPLETE, "test")
    assert desk.claim() == []


def test_the_database_refuses_impossible_rows(store: Store) -> None:
    desk = Desk(store, num_cells=1, num_samples=5)
    made = desk.claim()[0]
    for values in ({"state": "done"}, {"num_recorded": 6}, {"state": "nonsense"}):
        impossible = sa.update(shards).where(shards.c.id == made.shard_id).values(**values)
        with store.write() as c, pytest.raises((sa.exc.IntegrityError, sa.exc.StatementError)):
            c.execute(impossible)


def test_the_same_spec_continues_and_another_needs_another_name(store: Store) -> None:
    first = make_campaign(store, num_cells=2)
    assert make_campaign(store, num_cells=2) == first
    with pytest.raises(StoreError, match="another spec"):
        make_campaign(store, num_cells=3)


def test_unknown_campaigns_are_named_with_those_that_exist(store: Store) -> None:
    with pytest.raises(StoreError, match="no campaign yet"):
        views.campaign_header(store)
    make_campaign(store)
    with pytest.raises(StoreError, match="no campaign named 'other'; there are: drill"):
        views.campaign_header(store, "other")


def test_every_change_is_logged(store: Store) -> None:
    desk = Desk(store, num_cells=1, num_samples=5)
    desk.record(all_of(desk.claim()[0]))
    with store.read() as c:
        kinds = list(c.scalars(sa.select(events.c.kind).order_by(events.c.id)))
    assert kinds == ["created", "orchestrator", "running", "worker_starting", "claimed", "done"]


def test_texts_that_a_database_cannot_hold_are_mended(store: Store) -> None:
    desk = Desk(store, num_cells=1, num_samples=5)
    made = desk.claim()[0]
    desk.record([replace(outcome(made, 0), completion="a\x00b\ud800c", extracted="\x00")])
    row = next(views.iter_outcomes(store, with_completions=True))
    assert row.completion == "a\ufffdb?c"
    assert row.extracted == "\ufffd"


def test_the_fence_is_a_plain_value() -> None:
    assert Fence(1, 2) == Fence(1, 2, 10.0)
