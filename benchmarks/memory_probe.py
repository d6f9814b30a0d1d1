"""A vLLM worker that asks vLLM's own accounting about several lengths instead of starting to serve.

Loaded by `memory_fit.py` through `worker_cls`; weights are made once, then each length is profiled and vLLM's
verdict (`get_kv_cache_configs`) taken at each share of the GPU's memory. What was found is written after every length;
then the process ends.
"""

from __future__ import annotations

import gc
import json
import os
from pathlib import Path
from typing import Any

import torch
from vllm.v1.core.kv_cache_utils import get_kv_cache_configs

from workers.engine import PAGE_SUMMARY_SHARE
from workers.vllm_plugin.worker import SparseWorker


class Probe(SparseWorker):
    """Profiles every length that FRONTIER_PROBE names, writes what it found, and exits."""

    vllm_config: Any
    cache_config: Any

    def determine_available_memory(self) -> int:
        order = json.loads(os.environ["FRONTIER_PROBE"])
        facts: dict[str, Any] = {**self._constants(), "rows": []}
        first = self._allocated()
        for length in order["lengths"]:
            facts["rows"] += self._profile(length, order, self._allocated() - first)
            draft = Path(f"{order['out']}.part")
            draft.write_text(json.dumps(facts))
            draft.replace(order["out"])
        os._exit(0)

    def _constants(self) -> dict[str, Any]:
        return {
            "weight_bytes": int(self.model_runner.model_memory_usage),
            "total_bytes": int(self.init_snapshot.total_memory),  # type: ignore[attr-defined]
            "device": torch.cuda.get_device_name(),
            "model_runner": type(self.model_runner).__module__,
        }

    def _allocated(self) -> int:
        return int(torch.cuda.memory_allocated())

    def _profile(self, length: int, order: dict[str, Any], kept: int) -> list[dict[str, Any]]:
        """`kept`: bytes that earlier passes left behind (workspaces); an engine's only pass would count them."""
        self.vllm_config.model_config.max_model_len = length
        self.vllm_config.scheduler_config.max_num_batched_tokens = length + order["max_in_flight"]
        self.model_runner.max_num_tokens = length + order["max_in_flight"]
        used = self.cache_config.gpu_memory_utilization
        try:
            left = int(super(SparseWorker, self).determine_available_memory()) - kept  # type: ignore[misc]
        except torch.OutOfMemoryError as error:
            reason = f"out of memory while profiling: {str(error)[:80]}"
            gc.collect()
            torch.cuda.empty_cache()
            refused = {"fits": False, "kv_bytes": 0, "kv_tokens": 0, "reason": reason}
            return [{"length": length, "utilization": share, **refused} for share in order["utilizations"]]
        total = int(self._constants()["total_bytes"])
        peak = {name: int(getattr(self, name, 0)) for name in ("peak_activation_memory", "non_torch_memory")}
        return [
            {"length": length, "utilization": share, **peak, **self._verdict(int(left + (share - used) * total))}
            for share in order["utilizations"]
        ]

    def _verdict(self, available: int) -> dict[str, Any]:
        """What vLLM would do with so many bytes, less what our plugin keeps: its KV tokens, or its refusal."""
        available -= max(0, available) // PAGE_SUMMARY_SHARE
        try:
            (config,) = get_kv_cache_configs(self.vllm_config, [self.get_kv_cache_spec()], [available])  # type: ignore[attr-defined]
        except ValueError as error:
            return {"fits": False, "kv_bytes": available, "kv_tokens": 0, "reason": str(error)[:80]}
        tokens = config.num_blocks * self.cache_config.block_size
        return {"fits": True, "kv_bytes": available, "kv_tokens": tokens, "reason": ""}


def __getattr__(name: str) -> Any:
    """vLLM imports the class by its path; the base class is imported only then."""
    if name == "ProbeGPUWorker":
        from vllm.v1.worker.gpu_worker import Worker

        made = type(name, (Probe, Worker), {"__module__": __name__})
    elif name == "ProbeCPUWorker":
        from vllm.v1.worker.cpu_worker import CPUWorker

        made = type(name, (_Rehearsal, CPUWorker), {"__module__": __name__})
    else:
        raise AttributeError(name)
    globals()[name] = made
    return made


class _Rehearsal(Probe):
    """The same on a CPU, where vLLM profiles nothing: shows that the probe runs, not what a GPU would say."""

    def _constants(self) -> dict[str, Any]:
        weights = sum(p.numel() * p.element_size() for p in self.model_runner.model.parameters())
        runner = type(self.model_runner).__module__
        return {"weight_bytes": weights, "total_bytes": 16 * 2**30, "device": "CPU", "model_runner": runner}

    def _allocated(self) -> int:
        return 0
