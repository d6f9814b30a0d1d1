"""Worker classes for `ParallelConfig.worker_cls`: they see requests, sampling parameters and steps together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workers.vllm_plugin import register
from workers.vllm_plugin.session import Session

if TYPE_CHECKING:
    from workers.vllm_plugin.statistics import Report


class SparseWorker:
    """Mixin over vLLM's workers. Methods named `frontier_*` are called by `collective_rpc`."""

    model_runner: Any
    rank: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        register()
        self.session = Session()
        super().__init__(*args, **kwargs)

    def load_model(self, *args: Any, **kwargs: Any) -> Any:
        result = super().load_model(*args, **kwargs)  # type: ignore[misc]
        _attach(self.session, self.model_runner)
        return result

    def execute_model(self, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        self.session.begin(scheduler_output)
        try:
            return super().execute_model(scheduler_output, *args, **kwargs)  # type: ignore[misc]
        finally:
            self.session.end()

    def frontier_reports(self, wanted: list[tuple[str, int]]) -> list[Report | None]:
        """Reports of (request id, number of decode steps) in order."""
        return [self.session.report(name, steps) for name, steps in wanted]

    def frontier_facts(self) -> dict[str, Any]:
        """Layout and classes in use, for records and tests."""
        layers = _attention_layers(self.model_runner)
        first = next(iter(layers.values()))
        return {
            "rank": self.rank,
            "num_layers": len(layers),
            "implementation": type(first.impl).__qualname__,
            "model_runner": type(self.model_runner).__module__,
            "kv_cache_shape": tuple(first.kv_cache.shape),
            "executor": getattr(first.impl, "executor", "stock"),
        }


def _attention_layers(runner: Any) -> dict[str, Any]:
    context = runner.vllm_config.compilation_config.static_forward_context
    return {name: layer for name, layer in context.items() if hasattr(layer, "impl")}


def _attach(session: Session, runner: Any) -> None:
    """Hand the session to every attention layer, and the batch's row order to the session."""
    for layer in _attention_layers(runner).values():
        layer.impl.session = session
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
