"""What a person does to a campaign and reads of it, on both databases."""

from __future__ import annotations

import pytest

from orchestrator.domain.states import CampaignState
from orchestrator.errors import StoreError
from orchestrator.store import control, views
from orchestrator.store.campaigns import change_state
from orchestrator.store.schema import failures
from orchestrator.store.session import Store
from tests.support.campaigns import make_campaign


def test_a_campaign_that_is_not_paused_keeps_its_state_when_resumed(store: Store) -> None:
    campaign = make_campaign(store)
    assert control.resume(store, "drill") is CampaignState.READY
    with store.write() as connection:
        change_state(connection, campaign, 0.0, CampaignState.RUNNING, "")
        change_state(connection, campaign, 0.0, CampaignState.COMPLETE, "")
    assert control.resume(store, "drill") is CampaignState.COMPLETE
    with pytest.raises(StoreError, match="the campaign is complete; it cannot become paused"):
        control.pause(store, "drill")


def test_a_cancelled_campaign_is_not_resumed_but_requeued(store: Store) -> None:
    make_campaign(store)
    control.cancel(store, "drill")
    with pytest.raises(StoreError, match="the campaign is cancelled; `frontier requeue` takes up"):
        control.resume(store, "drill")
    assert control.requeue(store, "drill").num_shards > 0


def test_charged_failures_are_found_behind_any_number_of_others(store: Store) -> None:
    campaign = make_campaign(store)
    common = {"campaign_id": campaign, "kind": "timeout", "at": 0.0}
    common |= {text: "" for text in ("place", "message", "detail", "reproduction")}
    rows = [{"answer": "quarantine", "charged": True}, *[{"answer": "retry", "charged": False}] * 3]
    with store.write() as connection:
        connection.execute(failures.insert(), [{**common, **row} for row in rows])
    assert [f.answer for f in views.failure_rows(store, limit=1)] == ["retry"]
    assert [f.answer for f in views.failure_rows(store, limit=1, charged_only=True)] == ["quarantine"]
    assert len(views.failure_rows(store, limit=10**20)) == 4
    assert views.event_rows(store, after=10**20) == ()
