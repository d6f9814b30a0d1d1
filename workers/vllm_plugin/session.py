"""A worker's memory of the requests in flight, fed from the scheduler's output of every step."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from workers.vllm_plugin.plan import Plan, has_only_dense_rows, make_plan, spans_of_step
from workers.vllm_plugin.requests import EXTRA_KEY, RequestState
from workers.vllm_plugin.statistics import Report, make_report

if TYPE_CHECKING:
    from workers.vllm_plugin.step_tables import Step

MAX_FINISHED = 4096
"""Finished requests whose report nobody fetched (aborted ones) are dropped beyond this number."""
MAX_SHARED = 16384
"""Shared sparse prefills whose densities are remembered: more prompts than a cache holds."""


class Session:
    """One per worker process. `begin` and `end` bracket each step; `plan` is valid in between."""

    def __init__(self) -> None:
        self.requests: dict[str, RequestState] = {}
        self.row_order: Callable[[], Sequence[str]] = tuple
        """Gives the request ids of the current batch in row order; set by the worker for its model runner."""
        self.step: Step | None = None
        """Set while the model runs over step tables, in a warm-up or in a capture: then layers read those alone."""
        self._finished: OrderedDict[str, RequestState] = OrderedDict()
        self._densities: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._computed: dict[str, int] = {}
        self._scheduled: dict[str, int] | None = None
        self._plan: Plan | None = None

    def begin(self, step: Any) -> None:
        """Take in a `SchedulerOutput`: arrivals, departures, restarts, and what is scheduled."""
        for internal_id in step.finished_req_ids:
            self._finish(internal_id)
        self._computed.clear()
        for new in step.scheduled_new_reqs:
            self._arrive(new)
        cached = step.scheduled_cached_reqs
        for internal_id, computed in zip(cached.req_ids, cached.num_computed_tokens, strict=True):
            self._computed[internal_id] = computed
            if internal_id in cached.resumed_req_ids:
                self.requests[internal_id].restart()
        self._scheduled = dict(step.num_scheduled_tokens)
        for internal_id, count in self._scheduled.items():
            state = self.requests[internal_id]
            state.peak_tokens = max(state.peak_tokens, self._computed[internal_id] + count)
        self._plan = None

    def is_stock(self) -> bool:
        """Whether the current step has dense rows only; known before the batch is laid out."""
        scheduled = self._scheduled or {}
        return all(
            has_only_dense_rows(self.requests[i], self._computed[i], self._computed[i] + count)
            for i, count in scheduled.items()
        )

    def single_rows(self) -> list[tuple[RequestState, int]] | None:
        """Each scheduled request with the position of its row; None if one has several rows or there is no step."""
        scheduled = self._scheduled or {}
        if not scheduled or any(count != 1 for count in scheduled.values()):
            return None
        return [(self.requests[i], self._computed[i]) for i in scheduled]

    def end(self) -> None:
        self._scheduled = None
        self._plan = None

    def plan(self) -> Plan | None:
        """The current step's plan; None outside of a scheduler step (warm-up, profiling, graph capture)."""
        if self._scheduled is None:
            return None
        if self._plan is None:
            self._plan = self._make_plan(self._scheduled)
        return self._plan

    def report(self, name: str, num_decode_steps: int) -> Report | None:
        """Measurements of the request that its caller names `name`; None if this worker never saw it."""
        state = next((r for r in self.requests.values() if r.name == name), None) or self._finished.pop(name, None)
        if state is None:
            return None
        state.is_reported = True
        return make_report(state, num_decode_steps)

    def _make_plan(self, scheduled: dict[str, int]) -> Plan:
        spans = spans_of_step(self.row_order(), scheduled, self._computed.__getitem__, self.requests)
        return make_plan(spans)

    def _arrive(self, new: Any) -> None:
        self._computed[new.req_id] = new.num_computed_tokens
        known = self.requests.get(new.req_id)
        if known is not None:  # some model runners send a preempted request again as a new one
            known.restart()
            return
        extra = ((new.sampling_params.extra_args or {}) if new.sampling_params else {}).get(EXTRA_KEY) or {}
        length = len(new.prompt_token_ids or ())
        density = self._density_of(extra["shares"]) if "shares" in extra else None
        self.requests[new.req_id] = RequestState.new(new.req_id, length, extra, density)

    def _density_of(self, shares: str) -> dict[str, Any]:
        """The densities of this prefill, by layer; empty when it is dense or has not been computed yet."""
        density = self._densities.pop(shares, {})
        self._densities[shares] = density
        if len(self._densities) > MAX_SHARED:
            self._densities.popitem(last=False)
        return density

    def _finish(self, internal_id: str) -> None:
        state = self.requests.pop(internal_id, None)
        if state is None or state.is_reported:
            return
        self._finished[state.name] = state
        while len(self._finished) > MAX_FINISHED:
            self._finished.popitem(last=False)
