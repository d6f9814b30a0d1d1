"""Workers as Ray actors: one named, detached actor for each engine. The only orchestrator module that imports Ray.

Detached actors outlive the orchestrator; a successor with the same cluster finds them by name. Each
worker has at most one call under way, so that a frozen node delays nobody else.
"""

from __future__ import annotations

import os
import socket
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from orchestrator.domain.placement import Node
from orchestrator.errors import UserError
from orchestrator.scheduler.pool import Gone
from orchestrator.scheduler.ray_address import check_address
from orchestrator.scheduler.ray_gangs import give_back, reserve, spanning
from orchestrator.scheduler.ray_nodes import gpu_nodes, pin
from workers.actor import WorkerActor
from workers.engine import EngineSpec
from workers.exchange import StaleOrchestrator, WorkerMessage, WorkerReport, WorkerStart

NAMESPACE = "frontier"
_DRAIN_POLL_SECONDS = 2.0
_DEFAULT_NOTICE_SECONDS = 30.0
_ID = 12
"""Digits of a node's id that are kept."""
_PASSED_ON = ("VLLM_", "HF_", "OMP_", "FRONTIER_", "TOKENIZERS_", "TORCH", "CUDA_VISIBLE")


def ray_environment() -> None:
    """Ray's own settings, before it is imported: no usage statistics, explicit authentication mode."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")


class _RayWorker(WorkerActor):
    """Knows which of Ray's nodes it is on, so that a drain of the node finds it."""

    def __init__(self, start: WorkerStart, environment: Mapping[str, str]) -> None:
        import ray

        super().__init__(start, environment, _place(ray.get_runtime_context().get_node_id()))


class RayPool:
    """At most `num_workers` actors on a local cluster of its own, or on the cluster at `address`.

    `use_gpus=None` takes GPUs where the cluster has any; `num_workers=None` means one worker a GPU, else one.
    """

    def __init__(
        self,
        num_workers: int | None,
        *,
        address: str | None = None,
        use_gpus: bool | None = False,
        cpus_per_worker: float = 1.0,
    ) -> None:
        if address is not None:
            check_address(address)
        ray_environment()
        import ray

        self._ray = ray
        self._cpus = cpus_per_worker
        self._is_local = address is None
        self._connect(address, num_workers or 1)
        num_gpus = int(ray.cluster_resources().get("GPU", 0))
        self._use_gpus = num_gpus > 0 if use_gpus is None else use_gpus
        self._num_workers = num_workers or (num_gpus if self._use_gpus else 0) or 1
        place = f"local:{os.getpid()}" if self._is_local else ray.get_runtime_context().gcs_address
        self.name = f"ray:{place}"
        self._actors: dict[str, Any] = {}
        self._under_way: dict[str, Any] = {}
        self._places: dict[str, str] = {}
        self._draining: dict[str, float] = {}
        self._pinned: dict[str, tuple[tuple[str, ...], int]] = {}
        """The nodes that were chosen for each engine, and its GPUs on each."""
        self._asked_at = float("-inf")

    def _connect(self, address: str | None, num_workers: int) -> None:
        common: dict[str, Any] = {"namespace": NAMESPACE, "log_to_driver": False, "logging_level": "warning"}
        try:
            if address is None:
                cpus = max(os.cpu_count() or 1, round(num_workers * self._cpus) + 1)
                # "local": else Ray joins any cluster that runs on this machine, or that RAY_ADDRESS names.
                self._ray.init(address="local", num_cpus=cpus, include_dashboard=False, **common)
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
            limits.append(int(free.get("GPU", 0.0) // engine.num_gpus))
        return max(0, min(limits))

    def nodes(self) -> Sequence[Node]:
        """The hosts with GPUs; none when engines run on CPUs, or when the workers are full in number."""
        if not self._use_gpus or len(self._actors) >= self._num_workers:
            return ()
        own: Counter[str] = Counter()
        for nodes, gpus in self._pinned.values():
            own.update(dict.fromkeys(nodes, gpus))
        return gpu_nodes(self._ray, own, self._draining)

    def start(self, start: WorkerStart) -> None:
        environment = {k: v for k, v in os.environ.items() if k.startswith(_PASSED_ON)}
        if self._use_gpus:
            # Ray tells each actor which of its node's GPUs are its own.
            environment.pop("CUDA_VISIBLE_DEVICES", None)
        actor = self._ray.remote(_RayWorker).options(
            name=start.name,
            lifetime="detached",
            max_restarts=0,
            max_concurrency=4,
            num_cpus=self._cpus,
            **self._placed(start),
        )
        self._pinned[start.name] = ((start.node, *start.more_nodes), start.engine.gpus_per_node)
        self._actors[start.name] = actor.remote(start, environment)

    def _placed(self, start: WorkerStart) -> dict[str, Any]:
        """Actor options: where it and its GPUs go."""
        if not self._use_gpus:
            return pin(start.node)
        if start.engine.num_nodes == 1:
            return {"num_gpus": start.engine.num_gpus, **pin(start.node)}
        nodes = (start.node, *start.more_nodes)
        return spanning(reserve(start.name, nodes, start.engine.gpus_per_node, self._cpus))

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
        answers = {names[reference]: self._answer(names[reference], reference) for reference in ready}
        return {name: answer for name, answer in answers.items() if answer is not None}

    def _answer(self, name: str, reference: Any) -> WorkerReport | Gone | None:
        """None when the worker cannot be reached just now: it is asked again."""
        del self._under_way[name]
        try:
            report: WorkerReport = self._ray.get(reference)
        except self._ray.exceptions.ActorUnavailableError:
            return None
        except self._ray.exceptions.RayActorError as error:
            preempted = bool(getattr(error, "preempted", False)) or bool(self._hosts(name) & set(self._draining))
            return Gone(_one_line(error), preempted)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error, StaleOrchestrator):
                raise
            return Gone(_one_line(error))
        self._places[name] = report.node.rsplit(":", 1)[-1]
        return report

    def leaving(self) -> Mapping[str, float]:
        """Asked of Ray every two seconds."""
        now = time.time()
        if now - self._asked_at >= _DRAIN_POLL_SECONDS:
            self._asked_at = now
            self._draining = {node[:_ID]: until / 1000 for node, until in _draining_nodes().items()}
        return {
            name: min(max(0.0, until - now) if until > 0 else _DEFAULT_NOTICE_SECONDS for until in ends)
            for name in self._actors
            if (ends := [self._draining[place] for place in self._hosts(name) if place in self._draining])
        }

    def _hosts(self, name: str) -> set[str]:
        """Beginnings of the ids of an engine's nodes."""
        nodes, _ = self._pinned.get(name, ((), 0))
        return {node[:_ID] for node in nodes if node} | ({self._places[name]} if name in self._places else set())

    def stop(self, names: Collection[str]) -> None:
        for name in names:
            actor = self._actors.pop(name, None)
            self._under_way.pop(name, None)
            self._places.pop(name, None)
            self._pinned.pop(name, None)
            if actor is not None:
                self._kill(actor)
                give_back(name)

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


def _place(node_id: str) -> str:
    return f"{socket.gethostname()}:{node_id[:_ID]}"


def _draining_nodes() -> dict[str, int]:
    """Ray's draining nodes with their deadlines, milliseconds since 1970 (0: none); empty when Ray cannot tell.

    The call is private in Ray 2.60; Ray Train's own watcher polls it too.
    """
    try:
        from ray._private.state import state

        return dict(state.get_draining_nodes())
    except Exception:
        return {}


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]
