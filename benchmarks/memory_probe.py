"""A vLLM worker that asks vLLM's own accounting about several lengths instead of starting to serve.

Loaded by `memory_fit.py` through `worker_cls`; weights are loaded once, then each length is profiled and vLLM's
verdict (`get_kv_cache_configs`) taken at each share of the GPU's memory. The process ends with the answers in a file.
"""

from __future__ import annotations

import json
import os
from typing import Any

from vllm.v1.core.kv_cache_utils import get_kv_cache_configs
from vllm.v1.worker.gpu_worker import Worker

from workers.vllm_plugin.worker import SparseWorker


class ProbeWorker(SparseWorker, Worker):  # type: ignore[misc]
    """Profiles every length that FRONTIER_PROBE names, writes what it found, and exits."""

    def determine_available_memory(self) -> int:
        order = json.loads(os.environ["FRONTIER_PROBE"])
        rows = [row for length in order["lengths"] for row in self._profile(length, order)]
        total = int(self.init_snapshot.total_memory)
        facts = {"weight_bytes": int(self.model_runner.model_memory_usage), "total_bytes": total, "rows": rows}
        with open(order["out"], "w") as file:
            json.dump(facts, file)
        os._exit(0)

    def _profile(self, length: int, order: dict[str, Any]) -> list[dict[str, Any]]:
        self.vllm_config.model_config.max_model_len = length
        self.vllm_config.scheduler_config.max_num_batched_tokens = length + order["max_in_flight"]
        self.model_runner.max_num_tokens = length + order["max_in_flight"]
        used = self.cache_config.gpu_memory_utilization
        left = int(super().determine_available_memory())
        total = self.init_snapshot.total_memory
        return [
            {"length": length, "utilization": share, **self._verdict(int(left + (share - used) * total))}
            for share in order["utilizations"]
        ]

    def _verdict(self, available: int) -> dict[str, Any]:
        """What vLLM would do with so many bytes: its number of KV tokens, or its refusal."""
        try:
            (config,) = get_kv_cache_configs(self.vllm_config, [self.get_kv_cache_spec()], [available])
        except ValueError as error:
            return {"fits": False, "kv_bytes": available, "kv_tokens": 0, "reason": str(error)[:80]}
        tokens = config.num_blocks * self.cache_config.block_size
        return {"fits": True, "kv_bytes": available, "kv_tokens": tokens, "reason": ""}
