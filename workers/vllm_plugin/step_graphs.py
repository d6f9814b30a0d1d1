"""Full CUDA graphs for steps of decode rows alone: one launch a step instead of some two hundred.

vLLM's own full graphs hold dense attention. For a step with sparse rows the guard of `workers.vllm_plugin.graphs` asks
for a padded batch without a graph, and the model's forward pass is replayed here from a graph of our own, whose kernels
read the tables of `workers.vllm_plugin.step_tables`. Steps whose shape was rarely seen run piecewise, because a capture
costs as much as some tens of steps. Model runner V2 alone gives the fixed addresses that this needs.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from sparsekernels.parameters import Quest

from workers.vllm_plugin import DECODE_GRAPHS
from workers.vllm_plugin.groups import FreshRows
from workers.vllm_plugin.plan import Plan, Span
from workers.vllm_plugin.session import Session
from workers.vllm_plugin.step_tables import Step, StepShape, StepTables, shape_of

CAPTURE_AFTER = 12
"""A shape is captured when it comes for this time: a capture costs about as much as so many steps lose without one."""
MAX_GRAPHS = 96
"""Graphs kept, the longest unused dropped first."""


@dataclass(frozen=True, slots=True)
class Captured:
    """A graph and the hidden states that it leaves."""

    graph: Any
    output: Any


class StepGraphs:
    """One worker's graphs; stands in for the model's `forward`."""

    def __init__(self, session: Session, runner: Any, layers: dict[str, Any]) -> None:
        self._session, self._layers, self._runner = session, layers, runner
        self._inner = runner.model.forward
        self._tables = StepTables(runner.max_num_reqs, list(layers), runner.device)
        self._seen: Counter[StepShape] = Counter()
        self._graphs: OrderedDict[tuple[Any, ...], Captured] = OrderedDict()
        self.shape: StepShape | None = None
        """Shape of the step that is about to run from a graph or to be captured."""
        self.num_captured = 0
        self.seconds_captured = 0.0
        self.num_replayed = 0
        runner.model.forward = self.forward
        runner.model_state.prepare_attn = self._padded(runner.model_state.prepare_attn)

    def _padded(self, prepare_attn: Callable[..., Any]) -> Callable[..., Any]:
        """Metadata as for a full graph, that is of the padded batch, for steps that run from one of ours."""

        def prepare(batch: Any, mode: Any, *args: Any, **kwargs: Any) -> Any:
            from vllm.config.compilation import CUDAGraphMode

            return prepare_attn(batch, mode if self.shape is None else CUDAGraphMode.FULL, *args, **kwargs)

        return prepare

    @cached_property
    def _cache_page(self) -> int:
        layer = next(iter(self._layers.values()))
        return int(layer.impl.cache_page(layer.kv_cache))

    def wants(self, rows: int) -> bool:
        """Whether the scheduled step, padded to `rows`, should run from a graph."""
        self.shape = None
        members = self._session.single_rows()
        if members is None:
            return False
        shape = shape_of(rows, members, self._cache_page)
        if shape is None or not self._tables.can_hold(shape):
            return False
        self._seen[shape] += 1
        if self._seen[shape] < CAPTURE_AFTER:
            return False
        self.shape = shape
        return True

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's forward pass: from a graph when `wants` said so for this step, else as it was."""
        shape, self.shape = self.shape, None
        plan = self._session.plan() if shape is not None else None
        if shape is None or plan is None:
            return self._inner(*args, **kwargs)
        self._prepare(plan)
        self._tables.fill(plan)
        key = (shape, *_addresses(args), *_addresses(kwargs.values()))
        captured = self._graphs.get(key)
        if captured is None:
            return self._capture(key, shape, args, kwargs)
        self._graphs.move_to_end(key)
        captured.graph.replay()
        self.num_replayed += 1
        return captured.output

    def _prepare(self, plan: Plan) -> None:
        """Page summaries of the requests that have none yet."""
        new: dict[int, list[tuple[int, Span, int]]] = {}
        for span in plan.decode:
            method = span.request.method.decode
            if not span.continues and isinstance(method, Quest):
                new.setdefault(method.page_size, []).append((span.row, span, span.first_position))
        for page_size, rows in new.items():
            fresh = FreshRows.of(rows, page_size, self._runner.device)
            for name, layer in self._layers.items():
                layer.impl.prepare_rows(layer.kv_cache, self._metadata(name).block_table, fresh)

    def _metadata(self, name: str) -> Any:
        from vllm.forward_context import get_forward_context

        return get_forward_context().attn_metadata[name]

    def _capture(self, key: tuple[Any, ...], shape: StepShape, args: Any, kwargs: Any) -> Any:
        """Run the step, then record it for the next ones; the recording itself computes nothing."""
        output = self._run(shape, args, kwargs)
        started = time.monotonic()
        graph = torch.cuda.CUDAGraph()
        with _recording(graph, self._runner):
            recorded = self._run(shape, args, kwargs)
        self._graphs[key] = Captured(graph, recorded)
        self.num_captured += 1
        self.seconds_captured += time.monotonic() - started
        while len(self._graphs) > MAX_GRAPHS:
            self._graphs.popitem(last=False)
        return output

    def _run(self, shape: StepShape, args: Any, kwargs: Any) -> Any:
        slot_mapping = self._metadata(next(iter(self._layers))).slot_mapping
        self._session.step = Step.start(shape, self._tables, self._runner.max_model_len, slot_mapping)
        try:
            return self._inner(*args, **kwargs)
        finally:
            self._session.step = None


def _addresses(values: Any) -> list[Any]:
    """Where tensors lie; a graph reads its inputs from there."""
    return [(v.data_ptr(), v.shape) if isinstance(v, torch.Tensor) else v for v in values]


@contextmanager
def _recording(graph: Any, runner: Any) -> Iterator[None]:
    """A capture that lets other threads (NCCL's watchdog, the copies of sampled tokens) use the device meanwhile.

    Not `torch.cuda.graph`, which gives the allocator's memory back and collects garbage first: fine at the start, but
    a second lost in the middle of the work.
    """
    from vllm.distributed.parallel_state import graph_capture

    torch.cuda.synchronize()
    with graph_capture(device=runner.device):
        graph.capture_begin(pool=runner.cudagraph_manager.pool, capture_error_mode="thread_local")
        try:
            yield
        finally:
            graph.capture_end()


def supports(runner: Any, layers: dict[str, Any]) -> bool:
    """Whether this worker can hold steps with sparse rows in graphs: model runner V2, one rank a KV head, one stage,
    full attention in every layer."""
    manager = getattr(runner, "cudagraph_manager", None)
    if manager is None or not manager.cudagraph_mode.has_full_cudagraphs():
        return False
    if not runner.vllm_config.additional_config.get(DECODE_GRAPHS, True):
        return False
    if runner.vllm_config.parallel_config.pipeline_parallel_size > 1 or len(runner.kv_cache_config.kv_cache_groups) > 1:
        return False
    return all(layer.impl._full_attention() and layer.impl.ranks.copies == 1 for layer in layers.values())
