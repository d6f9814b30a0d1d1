"""The engine that evaluates for real: vLLM with our attention plugin, every method and budget on one set of weights.

vLLM steps in a thread of its own; `submit`, `poll` and `abort` talk to it through queues, so that `poll` keeps its
timeout and `progress` answers while a long prefill runs.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from workers.engine import (
    EngineFacts,
    EngineProgress,
    EngineSpec,
    Generation,
    GenerationFailure,
    GenerationRequest,
)
from workers.failures import EngineDead, EngineError, EngineStalled, EngineStartError, Failure, FailureKind
from workers.vllm_plugin import launch
from workers.vllm_plugin.admission import refusal
from workers.vllm_plugin.generation import as_vllm_request, chosen_logprobs, make_generation
from workers.vllm_plugin.ray_gang import check_gang
from workers.vllm_plugin.stages import join_reports
from workers.vllm_plugin.statistics import Report

JOIN_SECONDS = 20.0


@dataclass(slots=True)
class Meter:
    """Counts tokens as vLLM reports them, step by step; vLLM takes it for a statistics logger."""

    num_tokens: int = 0
    kv_use: float = 0.0
    changed: float = field(default_factory=time.monotonic)

    def record(self, scheduler_stats: Any, iteration_stats: Any, *_: Any, **__: Any) -> None:
        if scheduler_stats is not None:
            self.kv_use = float(scheduler_stats.kv_cache_usage)
        if iteration_stats is not None:
            self.num_tokens += iteration_stats.num_prompt_tokens + iteration_stats.num_generation_tokens
            self.changed = time.monotonic()

    def log_engine_initialized(self, *_: Any) -> None:
        """Part of vLLM's interface, like its two other names."""

    log = record_sleep_state = log_engine_initialized


class VllmEngine:
    """`workers.engine.Engine` over vLLM. Raises EngineError from the constructor when it cannot start."""

    def __init__(self, spec: EngineSpec) -> None:
        started = time.monotonic()
        self.spec = spec
        self._meter = Meter()
        self._commands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[Generation | GenerationFailure | None] = queue.SimpleQueue()
        self.logprobs: dict[str, list[float]] = {}
        """Log-probabilities of the generated tokens by request id, kept with `options: {logprobs: 0}`."""
        self._in_flight: dict[str, GenerationRequest] = {}
        self._names: dict[str, str] = {}
        self._death: EngineError | None = None
        self._closed = False
        self._engine = _start(spec, self._meter)
        self._processes = launch.core_processes(self._engine)
        self._facts = _facts(spec, self._engine, time.monotonic() - started)
        self._stages = _stages(spec, self._engine)
        self._thread = threading.Thread(target=self._run, name="vllm-engine", daemon=True)
        self._thread.start()

    # the protocol ----------------------------------------------------------------------------------------------

    @property
    def facts(self) -> EngineFacts:
        return self._facts

    def submit(self, request: GenerationRequest) -> None:
        self._raise_if_dead()
        if request.request_id in self._in_flight:
            raise ValueError(f"request id {request.request_id!r} is in flight already")
        self._in_flight[request.request_id] = request
        failure = refusal(request, self.spec, self._engine.vllm_config.cache_config.block_size)
        if failure is not None:
            self._results.put(GenerationFailure(request_id=request.request_id, failure=failure))
            return
        self._meter.changed = time.monotonic()
        self._commands.put(lambda: self._add(request))

    def poll(self, timeout_seconds: float) -> list[Generation | GenerationFailure]:
        found: list[Generation | GenerationFailure] = []
        deadline = time.monotonic() + timeout_seconds
        while not found:
            try:
                found += self._drain(max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            if self._death is not None:
                break
        if not found:
            self._raise_if_dead()
            self._raise_if_stalled()
        return found

    def abort(self, request_id: str) -> None:
        if self._in_flight.pop(request_id, None) is not None:
            self._commands.put(lambda: self._abort(request_id))

    def progress(self) -> EngineProgress:
        return EngineProgress(
            num_in_flight=len(self._in_flight), num_tokens_total=self._meter.num_tokens, kv_use=self._meter.kv_use
        )

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._commands.put(None)
        self._thread.join(JOIN_SECONDS if self._death is None else 1.0)
        _shut_down(self._engine)
        self._thread.join(JOIN_SECONDS)
        self._in_flight.clear()

    # results, in the caller's thread ------------------------------------------------------------------------------

    def _drain(self, timeout_seconds: float) -> list[Generation | GenerationFailure]:
        """Wait for one result, then take all that are there, leaving out those of aborted requests."""
        results = [self._results.get(timeout=timeout_seconds)]
        while not self._results.empty():
            results.append(self._results.get())
        known = [r for r in results if r is not None and r.request_id in self._in_flight]
        for result in known:
            del self._in_flight[result.request_id]
        return known

    def _raise_if_dead(self) -> None:
        if self._closed:
            raise EngineDead("the engine is closed")
        if self._death is None and launch.core_is_gone(self._engine):
            gone = EngineDead("vLLM died: its engine process is gone")
            self._death = launch.classify_death(gone, self._processes)(str(gone))
        if self._death is not None:
            self._in_flight.clear()
            raise self._death

    def _raise_if_stalled(self) -> None:
        limit = self.spec.options.get("stall_seconds")
        idle = time.monotonic() - self._meter.changed
        if limit is not None and self._in_flight and idle > limit:
            raise EngineStalled(f"no token for {idle:.0f} s with {len(self._in_flight)} requests in flight")

    # the engine's thread ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._obey():
                if self._engine.has_unfinished_requests():
                    self._finish([o for o in self._engine.step() if o.finished])
        except BaseException as error:  # whatever it is, the requests in flight are lost
            if not self._closed:
                text = " ".join(str(error).split())[:400]
                self._death = launch.classify_death(error, self._processes)(
                    f"vLLM died: {type(error).__name__}: {text}"
                )
            self._results.put(None)

    def _obey(self) -> bool:
        """Carry out waiting commands; waits for one when there is nothing to step. False: stop."""
        idle = not self._engine.has_unfinished_requests()
        while idle or not self._commands.empty():
            command = self._commands.get()
            if command is None:
                return False
            command()
            idle = False
        return True

    def _add(self, request: GenerationRequest) -> None:
        try:
            given = as_vllm_request(request, self.spec)
            self._names[request.request_id] = self._engine.add_request(request.request_id, *given)
        except ValueError as error:
            failure = Failure(kind=FailureKind.BAD_SAMPLE, message=str(error), where="generate")
            self._results.put(GenerationFailure(request_id=request.request_id, failure=failure))

    def _abort(self, request_id: str) -> None:
        name = self._names.pop(request_id, None)
        if name is not None:
            self._engine.abort_request([name], internal=True)

    def _finish(self, outputs: list[Any]) -> None:
        outputs = [o for o in outputs if self._names.pop(o.request_id, None) is not None]
        reports = self._reports([(o.request_id, max(0, len(o.outputs[0].token_ids) - 1)) for o in outputs])
        for output, report in zip(outputs, reports, strict=True):
            if output.outputs[0].logprobs:
                self.logprobs[output.request_id] = chosen_logprobs(output.outputs[0])
            request = self._in_flight.get(output.request_id)
            layers = sum(self._stages) if request is not None and request.report_layers else None
            self._results.put(make_generation(output, report, layers))

    def _reports(self, wanted: list[tuple[str, int]]) -> list[Report | None]:
        if not wanted or not launch.plugin_enabled(self.spec):
            return [None] * len(wanted)
        ranks = self._engine.collective_rpc("frontier_reports", args=(wanted,))
        return [join_reports(reports, self._stages) for reports in zip(*ranks, strict=True)]


def _start(spec: EngineSpec, meter: Meter) -> Any:
    """A started LLMEngine. Raises EngineStartError or EngineOutOfMemory, each one line."""
    config = launch.read_model_config(spec)
    launch.quieten()
    try:
        import vllm.platforms as platforms
    except ImportError as error:
        raise EngineStartError(f"vLLM is not installed: {error}") from None
    on_cpu = platforms.current_platform.is_cpu()
    launch.prepare_environment(spec, on_cpu)
    if spec.num_nodes > 1:
        check_gang(spec, platforms.current_platform)
    launch.check_parallel(spec, config, None if on_cpu else platforms.current_platform.device_count())
    if not on_cpu:
        launch.check_memory(spec, platforms.current_platform.get_device_total_memory())
    try:
        return _make_engine(spec, config, meter, on_cpu)
    except Exception as error:
        raise launch.classify_start(error) from error


def _make_engine(spec: EngineSpec, config: Mapping[str, Any], meter: Meter, on_cpu: bool) -> Any:
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine

    from workers.vllm_plugin import register, unregister

    register() if launch.plugin_enabled(spec) else unregister()
    arguments = EngineArgs(**launch.engine_arguments(spec, config, on_cpu))
    return LLMEngine.from_engine_args(arguments, stat_loggers=[lambda *_: meter])  # type: ignore[list-item,arg-type,return-value]


def _shut_down(engine: Any) -> None:
    """Stop vLLM's processes, or give back what an engine in our own process holds."""
    import gc

    try:
        engine.engine_core.shutdown()
    finally:
        if hasattr(engine, "model_executor"):
            from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

            engine.model_executor = None
            cleanup_dist_env_and_memory()
        gc.collect()


def _stages(spec: EngineSpec, engine: Any) -> list[int]:
    """Layers of each pipeline stage."""
    if spec.pipeline_parallel == 1 or not launch.plugin_enabled(spec):
        config = engine.vllm_config
        return [int(config.model_config.get_num_layers(config.parallel_config))]
    facts = engine.collective_rpc("frontier_facts")
    return [int(rank["num_layers"]) for rank in facts[:: spec.tensor_parallel]]


def _facts(spec: EngineSpec, engine: Any, seconds: float) -> EngineFacts:
    import torch
    import vllm
    from vllm.platforms import current_platform

    ranks = engine.collective_rpc("frontier_facts") if launch.plugin_enabled(spec) else [{}]
    cache = engine.vllm_config.cache_config
    device = "cpu" if current_platform.is_cpu() else current_platform.get_device_name()
    return EngineFacts(
        engine=f"vllm {vllm.__version__} {current_platform.device_type}",
        device=device,
        executor=ranks[0].get("executor", "stock"),
        num_weight_loads=ranks[0].get("num_weight_loads", 1),
        load_seconds=seconds,
        kv_capacity_tokens=cache.num_gpu_blocks * cache.block_size,
        max_model_len=engine.vllm_config.model_config.max_model_len,
        versions={"vllm": vllm.__version__, "torch": torch.__version__},
    )
