"""An engine over several hosts: vLLM's Ray executor inside the placement group that the orchestrator has reserved."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

from workers.engine import EngineSpec
from workers.failures import EngineStartError

EXECUTOR = "vllm.v1.executor.ray_executor_v2"
SWITCH = "VLLM_USE_RAY_V2_EXECUTOR_BACKEND"
"""vLLM's own. Its first Ray executor calls the model runner past the worker class: every method would silently be
dense."""


def check_gang(spec: EngineSpec, platform: Any) -> None:
    """Raise EngineStartError unless this process can start an engine over several hosts; sets vLLM's executor."""
    where = f"the engine spans {spec.num_nodes} nodes"
    if spec.num_gpus % spec.num_nodes:
        raise EngineStartError(f"{where}, which do not share its {spec.num_gpus} GPUs evenly")
    if not platform.ray_device_key:
        raise EngineStartError(f"{where}, but vLLM's Ray executor does not run on {platform.device_name}")
    if find_spec(EXECUTOR) is None:
        raise EngineStartError(f"{where}, but this vLLM has no {EXECUTOR}: install vLLM 0.25 or newer")
    if os.environ.get(SWITCH, "1") != "1":
        raise EngineStartError(f"{where}, and {SWITCH}=0 would leave out every method: unset it")
    address = _cluster()
    if address is None:
        raise EngineStartError(f"{where}: it runs on a Ray cluster only (frontier run SPEC --ray ADDRESS)")
    os.environ[SWITCH] = "1"
    # The engine's core is a process of its own, which else might start a cluster of its own.
    os.environ["RAY_ADDRESS"] = address


def _cluster() -> str | None:
    """Address of the Ray cluster in one of whose placement groups this process is; None: it is in none."""
    if find_spec("ray") is None:
        return None
    import ray
    from ray.util import get_current_placement_group

    if not ray.is_initialized() or get_current_placement_group() is None:
        return None
    return str(ray.get_runtime_context().gcs_address)
