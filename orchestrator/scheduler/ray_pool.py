"""Workers as Ray actors: one named, detached actor for each engine. The only orchestrator module that imports Ray.

Detached actors outlive the orchestrator; a successor with the same cluster finds them by name. Each
worker has at most one call under way, so that a frozen node delays nobody else.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from orchestrator.domain.placement import Node
from orchestrator.errors import UserError
from orchestrator.scheduler.pool import Gone
from workers.actor import WorkerActor
from workers.engine import EngineSpec
from workers.exchange import WorkerMessage, WorkerReport, WorkerStart

NAMESPACE = "frontier"
_PASSED_ON = ("VLLM_", "HF_", "OMP_", "FRONTIER_", "TOKENIZERS_", "TORCH", "CUDA_VISIBLE")


def ray_environment() -> None:
    """Ray's own settings, before it is imported: no usage statistics, explicit authentication mode."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")


class RayPool:
    """At most `num_workers` actors on a local cluster of its own, or on the cluster at `address`."""

    def __init__(
        self,
        num_workers: int,
        *,
        address: str | None = None,
        use_gpus: bool = False,
        cpus_per_worker: float = 1.0,
        start_seconds: float = 120.0,
    ) -> None:
        ray_environment()
        import ray

        self._ray = ray
        self._num_workers, self._use_gpus, self._cpus = num_workers, use_gpus, cpus_per_worker
        self._start_seconds = start_seconds
        self._is_local = address is None
        self._connect(address)
        place = f"local:{os.getpid()}" if self._is_local else ray.get_runtime_context().gcs_address
        self.name = f"ray:{place}"
        self._actors: dict[str, Any] = {}
        self._under_way: dict[str, Any] = {}
        self._preempted: set[str] = set()

    def _connect(self, address: str | None) -> None:
        common: dict[str, Any] = {"namespace": NAMESPACE, "log_to_driver": False, "logging_level": "warning"}
        try:
            if address is None:
                cpus = max(os.cpu_count() or 1, round(self._num_workers * self._cpus) + 1)
                self._ray.init(num_cpus=cpus, include_dashboard=False, **common)
            else:
                self._ray.init(address=address, **common)
        except (ConnectionError, RuntimeError, ValueError) as error:
            lines = str(error).strip().splitlines()
            raise UserError(f"Ray cluster {address or '(local)'}: {lines[0] if lines else error}") from None

    def room(self, engine: EngineSpec) -> int:
        wanted = self._num_workers - len(self._actors)
        if wanted <= 0:
            return 0
        free = self._ray.available_resources()
        limits = [wanted, int(free.get("CPU", 0.0) / self._cpus) if self._cpus else wanted]
        if self._use_gpus:
            limits.append(int(free.get("GPU", 0.0) // engine.tensor_parallel))
        return max(0, min(limits))

    def nodes(self) -> Sequence[Node]:
        return ()

    def start(self, start: WorkerStart) -> None:
        environment = {k: v for k, v in os.environ.items() if k.startswith(_PASSED_ON) and not self._use_gpus}
        actor = self._ray.remote(WorkerActor).options(
            name=start.name,
            lifetime="detached",
            max_restarts=0,
            max_concurrency=4,
            num_cpus=self._cpus,
            num_gpus=start.engine.tensor_parallel if self._use_gpus else 0,
        )
        self._actors[start.name] = actor.remote(start, environment, "")

    def adopt(self, wanted: Mapping[str, EngineSpec]) -> set[str]:
        for name in wanted:
            try:
                self._actors[name] = self._ray.get_actor(name, namespace=NAMESPACE)
            except ValueError:
                continue
        return set(wanted) & set(self._actors)

    def free(self) -> set[str]:
        return set(self._actors) - set(self._under_way)

    def exchange(
        self, messages: Mapping[str, WorkerMessage], timeout_seconds: float
    ) -> Mapping[str, WorkerReport | Gone]:
        for name, message in messages.items():
            self._under_way[name] = self._actors[name].exchange.remote(message)
        names = {reference: name for name, reference in self._under_way.items()}
        if not names:
            return {}
        ready, _ = self._ray.wait(list(names), num_returns=len(names), timeout=timeout_seconds, fetch_local=True)
        return {names[reference]: self._answer(names[reference], reference) for reference in ready}

    def _answer(self, name: str, reference: Any) -> WorkerReport | Gone:
        del self._under_way[name]
        try:
            report: WorkerReport = self._ray.get(reference)
        except self._ray.exceptions.RayActorError as error:
            preempted = bool(getattr(error, "preempted", False)) or name in self._preempted
            return Gone(_one_line(error), preempted)
        except self._ray.exceptions.RayTaskError as error:
            return Gone(_one_line(error))
        return report

    def leaving(self) -> Mapping[str, float]:
        return {}

    def stop(self, names: Collection[str]) -> None:
        for name in names:
            actor = self._actors.pop(name, None)
            self._under_way.pop(name, None)
            if actor is not None:
                self._kill(actor)

    def _kill(self, actor: Any) -> None:
        try:
            actor.stop.remote()
            self._ray.kill(actor, no_restart=True)
        except (ValueError, self._ray.exceptions.RayError):
            return

    def close(self, *, keep_workers: bool = False) -> None:
        if not keep_workers:
            self.stop(list(self._actors))
        self._ray.shutdown()


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]
