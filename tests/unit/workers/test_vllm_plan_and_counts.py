"""The plugin's bookkeeping in plain Python: phases by position, decode counts, reports, cache rules."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from workers.vllm_plugin.plan import Span, has_only_dense_rows, make_plan, spans_of_step
from workers.vllm_plugin.requests import EXTRA_KEY, DecodeCounts, RequestState
from workers.vllm_plugin.session import Session
from workers.vllm_plugin.statistics import merge_reports

QUEST: dict[str, Any] = {"decode": {"name": "quest", "token_budget": 32}}
SNAP: dict[str, Any] = {"compress": {"name": "snapkv", "token_capacity": 200}}
BLOCKS: dict[str, Any] = {"prefill": {"name": "block_sparse", "top_blocks": 4}}


def state(method: dict[str, Any], prompt_length: int = 100) -> RequestState:
    return RequestState.new("internal", prompt_length, {"id": "mine", "method": method})


def span(method: dict[str, Any], start: int, count: int) -> Span:
    return Span(state(method), 0, 0, count, start)


def positions(spans: tuple[Span, ...]) -> list[tuple[int, int]]:
    return [(s.first_position, s.end_position) for s in spans]


def test_rows_get_their_phase_by_position_however_they_are_scheduled() -> None:
    plan = make_plan([span({**BLOCKS, **QUEST}, 0, 103)])
    assert positions(plan.prefill) == [(0, 100)]
    assert positions(plan.decode) == [(100, 101), (101, 102), (102, 103)]
    assert not plan.dense
    assert [s.first_token for s in plan.decode] == [100, 101, 102]


def test_dense_rows_of_a_decode_method_go_to_the_stock_kernel() -> None:
    plan = make_plan([span(QUEST, 0, 100)])
    assert positions(plan.dense) == [(0, 100)]
    assert plan.is_stock


def test_compressing_requests_vote_with_their_prompt() -> None:
    plan = make_plan([span(SNAP, 40, 61)])
    assert positions(plan.voting) == [(40, 100)]
    assert plan.voting[0].completes_prompt
    assert positions(plan.decode) == [(100, 101)]


@pytest.mark.parametrize(
    ("method", "start", "end", "expected"),
    [({}, 0, 200, True), (QUEST, 0, 100, True), (QUEST, 100, 101, False), (BLOCKS, 0, 50, False),
     (BLOCKS, 100, 101, True), (SNAP, 0, 50, False), (SNAP, 120, 121, False)],
)  # fmt: skip
def test_steps_of_dense_rows_are_known_before_the_batch_is_laid_out(
    method: dict[str, Any], start: int, end: int, expected: bool
) -> None:
    request = state(method)
    assert has_only_dense_rows(request, start, end) is expected
    assert make_plan([Span(request, 0, 0, end - start, start)]).is_stock is expected


def test_page_summaries_continue_only_from_the_row_before() -> None:
    request = state(QUEST)
    first = make_plan([Span(request, 0, 0, 1, 100)]).decode
    second = make_plan([Span(request, 0, 0, 1, 101)]).decode
    request.restart()
    again = make_plan([Span(request, 0, 0, 103, 0)]).decode
    assert [s.continues for s in (*first, *second, *again)] == [False, True, False, False, False]


def test_spans_follow_the_batch_order() -> None:
    requests = {name: state({}) for name in "abc"}
    spans = spans_of_step(["c", "a", "b"], {"a": 5, "b": 1, "c": 2}, {"a": 0, "b": 100, "c": 7}.__getitem__, requests)
    assert [(s.row, s.first_token, s.first_position) for s in spans] == [(0, 0, 7), (1, 2, 0), (2, 7, 100)]


def test_decode_counts_ignore_steps_beyond_the_last_token_and_repeats() -> None:
    counts = DecodeCounts(100)
    for position, read in ((100, 10.0), (101, 10.0), (100, 99.0), (102, 50.0)):
        counts.add(position, read)
    assert counts.density(2) == pytest.approx(20 / 203)
    assert counts.density(0) == 1.0


def step(
    new: Sequence[Any] = (), cached: dict[str, int] | None = None, finished: tuple[str, ...] = (), **counts: int
) -> Any:
    cached = cached or {}
    rows = SimpleNamespace(
        req_ids=list(cached), num_computed_tokens=list(cached.values()), resumed_req_ids=set(), num_output_tokens=[]
    )
    return SimpleNamespace(
        finished_req_ids=set(finished), scheduled_new_reqs=new, scheduled_cached_reqs=rows, num_scheduled_tokens=counts
    )


def arriving(name: str, method: dict[str, Any]) -> Any:
    extra = {EXTRA_KEY: {"id": f"my {name}", "method": method}}
    return SimpleNamespace(
        req_id=name,
        prompt_token_ids=[1] * 100,
        num_computed_tokens=0,
        sampling_params=SimpleNamespace(extra_args=extra),
    )


def test_a_session_follows_requests_through_their_life() -> None:
    session = Session()
    session.row_order = lambda: ["a"]
    assert session.plan() is None
    session.begin(step([arriving("a", QUEST)], a=100))
    assert session.is_stock()
    assert positions(session.plan().dense) == [(0, 100)]  # type: ignore[union-attr]
    session.end()
    session.begin(step(cached={"a": 100}, a=1))
    assert not session.is_stock()
    assert positions(session.plan().decode) == [(100, 101)]  # type: ignore[union-attr]
    session.begin(step([arriving("a", QUEST)], a=101))  # preempted and sent again as new
    report = session.report("my a", 1)
    assert report is not None
    assert report.num_restarts == 1
    assert report.peak_tokens == 101
    session.begin(step(finished=("a",)))
    assert session.report("my a", 1) is None
    assert session.report("nobody", 1) is None


def test_reports_wait_for_their_caller_after_a_request_has_left() -> None:
    session = Session()
    session.begin(step([arriving("a", {})], a=100))
    session.begin(step(finished=("a",)))
    assert session.report("my a", 0) is not None
    assert session.report("my a", 0) is None


def test_reports_of_ranks_merge_to_their_mean() -> None:
    one = dict(density_prefill=(0.2, 0.4), density_decode=0.1, kv_kept=(), num_restarts=0, peak_tokens=101)
    two = dict(density_prefill=(0.4, 0.4), density_decode=0.3, kv_kept=(), num_restarts=1, peak_tokens=102)
    merged = merge_reports([one, None, two])
    assert merged is not None
    assert merged.density_prefill == pytest.approx((0.3, 0.4))
    assert (merged.density_decode, merged.kv_kept, merged.num_restarts) == (pytest.approx(0.2), (), 1)
    assert merged.peak_tokens == 102
    assert merge_reports([None]) is None
