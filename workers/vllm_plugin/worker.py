"""Worker classes for `ParallelConfig.worker_cls`: they see requests, sampling parameters and steps together."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from workers.engine import PAGE_SUMMARY_SHARE
from workers.vllm_plugin import register
from workers.vllm_plugin.graphs import guard_graphs
from workers.vllm_plugin.parallel import current_ranks
from workers.vllm_plugin.session import Session
from workers.vllm_plugin.stages import prepare_stage
from workers.vllm_plugin.step_graphs import StepGraphs, supports


class SparseWorker:
    """Mixin over vLLM's workers. Methods named `frontier_*` are called by `collective_rpc`."""

    model_runner: Any
    rank: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        register()
        self.session = Session()
        self.num_weight_loads = 0
        self.graphs: StepGraphs | None = None
        self._guarded = False
        super().__init__(*args, **kwargs)

    def load_model(self, *args: Any, **kwargs: Any) -> Any:
        result = super().load_model(*args, **kwargs)  # type: ignore[misc]
        self.num_weight_loads += 1
        _attach(self.session, self.model_runner)
        return result

    def execute_model(self, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        self._guard()
        self.session.begin(scheduler_output)
        try:
            return super().execute_model(scheduler_output, *args, **kwargs)  # type: ignore[misc]
        finally:
            self.session.end()

    def _guard(self) -> None:
        """Once, in the first step: the runner makes its graphs after the weights are loaded."""
        if self._guarded:
            return
        prepare_stage(self.model_runner)
        layers = attention_layers(self.model_runner)
        if supports(self.model_runner, layers):
            self.graphs = StepGraphs(self.session, self.model_runner, layers)
        guard_graphs(self.model_runner, self.session.is_stock, self.graphs.wants if self.graphs is not None else None)
        self._guarded = True

    def determine_available_memory(self) -> int:
        """Leaves room for Quest's page summaries, which live outside vLLM's cache."""
        available = int(super().determine_available_memory())  # type: ignore[misc]
        fixed = self.model_runner.vllm_config.cache_config.kv_cache_memory_bytes is not None
        return available if fixed else available - available // PAGE_SUMMARY_SHARE

    def frontier_reports(self, wanted: list[tuple[str, int]]) -> list[dict[str, Any] | None]:
        """Reports of (request id, number of decode steps) in order, as plain data that any process can read."""
        reports = [self.session.report(name, steps) for name, steps in wanted]
        return [None if r is None else asdict(r) for r in reports]

    def frontier_facts(self) -> dict[str, Any]:
        """Layout and classes in use, for records and tests."""
        layers = attention_layers(self.model_runner)
        first = next(iter(layers.values()))
        return {
            "rank": self.rank,
            "num_weight_loads": self.num_weight_loads,
            "num_layers": len(layers),
            "implementation": type(first.impl).__qualname__,
            "model_runner": type(self.model_runner).__module__,
            "kv_cache_shape": tuple(first.kv_cache.shape),
            "executor": getattr(first.impl, "executor", "stock"),
            "graphs_captured": 0 if self.graphs is None else self.graphs.num_captured,
            "graphs_seconds": 0.0 if self.graphs is None else self.graphs.seconds_captured,
            "graphs_replayed": 0 if self.graphs is None else self.graphs.num_replayed,
        }


def attention_layers(runner: Any) -> dict[str, Any]:
    context = runner.vllm_config.compilation_config.static_forward_context
    return {name: layer for name, layer in context.items() if hasattr(layer, "impl")}


def _attach(session: Session, runner: Any) -> None:
    """Hand the session and the ranks to every attention layer, and the batch's row order to the session."""
    ranks = current_ranks(runner.vllm_config.model_config.get_total_num_kv_heads())
    for layer in attention_layers(runner).values():
        layer.impl.session, layer.impl.ranks = session, ranks
    state = getattr(runner, "model_state", None)
    if state is None:
        session.row_order = lambda: runner.input_batch.req_ids
    else:
        _capture_row_order(session, state)


def _capture_row_order(session: Session, model_state: Any) -> None:
    """Model runner V2 keeps the batch local; its `prepare_attn` is the one place that we see it pass."""
    inner = model_state.prepare_attn

    def prepare_attn(input_batch: Any, *args: Any, **kwargs: Any) -> Any:
        order = list(input_batch.req_ids)
        session.row_order = lambda: order
        return inner(input_batch, *args, **kwargs)

    model_state.prepare_attn = prepare_attn


def __getattr__(name: str) -> Any:
    """vLLM imports the class by its path; the base class is imported only then."""
    if name == "SparseCPUWorker":
        from vllm.v1.worker.cpu_worker import CPUWorker

        worker = type(name, (SparseWorker, CPUWorker), {"__module__": __name__})
    elif name == "SparseGPUWorker":
        from vllm.v1.worker.gpu_worker import Worker

        worker = type(name, (SparseWorker, Worker), {"__module__": __name__})
    else:
        raise AttributeError(name)
    globals()[name] = worker
    return worker
