"""Sparse attention inside stock vLLM, per request; idle unless an engine of ours asks for it.

vLLM calls `register` (entry point group `vllm.general_plugins`) in the front end, in the engine core and in
every worker process, maybe several times, before attention layers are built. Without the switch below it
does nothing, so that other users of the same environment keep the stock backends.
"""

from __future__ import annotations

import os

SWITCH = "FRONTIER_VLLM_PLUGIN"
"""Environment variable that an engine sets to 1 for itself and the processes that it starts."""

DECODE_GRAPHS = "frontier_decode_graphs"
"""Key of vLLM's `additional_config`; False leaves steps of sparse decode rows to piecewise CUDA graphs."""


def register() -> None:
    """Put our attention backend in the platform's slot. Idempotent."""
    if os.environ.get(SWITCH) != "1":
        return
    from vllm.platforms import current_platform
    from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend

    if current_platform.is_cpu():
        # The CPU platform takes no backend but CPU_ATTN, so that slot is overridden.
        register_backend(AttentionBackendEnum.CPU_ATTN, "workers.vllm_plugin.cpu.SparseCPUBackend")
    elif current_platform.is_cuda():
        register_backend(AttentionBackendEnum.CUSTOM, "workers.vllm_plugin.cuda.SparseFlashBackend")


def unregister() -> None:
    """Give the slots back to the stock backends; for processes that start a stock engine after one of ours."""
    from vllm.v1.attention.backends.registry import AttentionBackendEnum

    for slot in (AttentionBackendEnum.CPU_ATTN, AttentionBackendEnum.CUSTOM):
        slot.clear_override()
