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
    if not _has_group():
        raise EngineStartError(f"{where}: it runs on a Ray cluster only (frontier run SPEC --ray ADDRESS)")
    os.environ[SWITCH] = "1"


def _has_group() -> bool:
    """Whether this process is in a placement group of Ray."""
    if find_spec("ray") is None:
        return False
    import ray
    from ray.util import get_current_placement_group

    return bool(ray.is_initialized()) and get_current_placement_group() is not None
