"""From an `EngineSpec` to vLLM's engine arguments, with the checks that give one clear line instead of a traceback."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workers.engine import GANGS_BY_GPU, EngineSpec
from workers.failures import EngineDead, EngineError, EngineKilled, EngineOutOfMemory, EngineStartError
from workers.vllm_plugin import DECODE_GRAPHS, SWITCH

PACKAGE = "workers.vllm_plugin"
OWN_OPTIONS = frozenset(
    {"plugin", "in_process", "ignore_eos", "logprobs", "stall_seconds", "decode_graphs", GANGS_BY_GPU}
)
"""Keys of `EngineSpec.options` that are ours; all others go to vLLM's EngineArgs."""
DEFAULT_CPU_CACHE_GIB = 2.0
WEIGHT_PATTERNS = ("*.safetensors", "*.bin", "*.pt", "*.gguf")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")


def read_model_config(spec: EngineSpec) -> dict[str, Any]:
    """The model folder's config.json. Raises EngineStartError if the folder cannot hold a model."""
    folder = Path(spec.model)
    if not folder.is_dir():
        raise EngineStartError(f"model {spec.model!r} is no folder")
    config = folder / "config.json"
    if not config.is_file():
        raise EngineStartError(f"model folder {spec.model!r} has no config.json")
    if spec.load_format != "dummy" and not any(any(folder.glob(p)) for p in WEIGHT_PATTERNS):
        raise EngineStartError(f"model folder {spec.model!r} has no weights ({', '.join(WEIGHT_PATTERNS)})")
    try:
        loaded: dict[str, Any] = json.loads(config.read_text())
    except ValueError as error:
        raise EngineStartError(f"{config}: {error}") from None
    return loaded


def check_parallel(spec: EngineSpec, config: Mapping[str, Any], num_devices: int | None) -> None:
    """Raise EngineStartError if the model cannot be cut over its devices; None devices: a CPU."""
    ranks = spec.tensor_parallel
    text = config.get("text_config") or config
    heads = int(text["num_attention_heads"])
    kv_heads = int(text.get("num_key_value_heads") or heads)
    if ranks < 1 or heads % ranks:
        raise EngineStartError(f"tensor_parallel is {ranks}; it must divide the model's {heads} attention heads")
    if kv_heads % ranks and ranks % kv_heads:
        raise EngineStartError(f"tensor_parallel is {ranks}; it must divide {kv_heads} KV heads or be a multiple")
    layers = int(text.get("num_hidden_layers") or spec.pipeline_parallel)
    if not 1 <= spec.pipeline_parallel <= layers:
        raise EngineStartError(f"pipeline_parallel is {spec.pipeline_parallel}; the model has {layers} layers")
    if num_devices is not None and spec.num_nodes == 1 and spec.num_gpus > num_devices:
        parts = f"tensor_parallel is {ranks}" + (
            f" in {spec.pipeline_parallel} stages" if spec.num_gpus > ranks else ""
        )
        raise EngineStartError(f"{parts}, but {num_devices} GPU(s) are visible")


def weight_bytes(folder: Path) -> int:
    """Size of the weights on disk, of the first format that is there."""
    for pattern in WEIGHT_PATTERNS:
        files = list(folder.glob(pattern))
        if files:
            return sum(f.stat().st_size for f in files)
    return 0


def check_memory(spec: EngineSpec, device_bytes: int) -> None:
    """Raise EngineOutOfMemory when the weights alone exceed the share of each device that the engine may use."""
    share, needed = device_bytes * spec.gpu_memory_utilization, weight_bytes(Path(spec.model)) / spec.num_gpus
    if spec.load_format != "dummy" and needed > share:
        raise EngineOutOfMemory(
            f"the weights need {needed / 2**30:.1f} GiB on each of {spec.num_gpus} device(s), "
            f"but {share / 2**30:.1f} GiB ({spec.gpu_memory_utilization:.0%} of a device) may be used"
        )


def rope_override(spec: EngineSpec, config: Mapping[str, Any]) -> dict[str, Any]:
    """The override of the model's config that applies `rope_scaling`, with the model's own base frequency."""
    if spec.rope_scaling is None:
        return {}
    own = config.get("rope_parameters") or {}
    theta = config.get("rope_theta", own.get("rope_theta"))
    scaling = dict(spec.rope_scaling)
    scaling.setdefault("rope_type", scaling.pop("type", "yarn"))
    override: dict[str, Any] = {"rope_parameters": {**({} if theta is None else {"rope_theta": theta}), **scaling}}
    length = scaling.get("original_max_position_embeddings")
    if length and scaling["rope_type"] == "yarn":
        # Later versions of vLLM take the length that YaRN reaches from here, earlier ones compute it.
        override["max_position_embeddings"] = round(length * scaling.get("factor", 1.0))
    return override


def plugin_enabled(spec: EngineSpec) -> bool:
    """False only for a stock engine, asked for with `options: {plugin: false}` (comparisons)."""
    return bool(spec.options.get("plugin", True))


def prepare_environment(spec: EngineSpec, on_cpu: bool) -> None:
    """Set what selects the plugin and the processes, for us and for the processes that vLLM starts."""
    os.environ[SWITCH] = "1" if plugin_enabled(spec) else "0"
    if on_cpu and spec.num_gpus > 1:  # vLLM would want a memory node for each rank
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0" if runs_in_process(spec, on_cpu) else "1"


def quieten() -> None:
    """Defaults for vLLM's environment that a user may override; before vLLM is imported."""
    for name, value in (
        ("VLLM_NO_USAGE_STATS", "1"),
        ("VLLM_LOGGING_LEVEL", "WARNING"),
        ("VLLM_USE_FLASHINFER_SAMPLER", "0"),
        ("HF_HUB_OFFLINE", "1"),
    ):
        os.environ.setdefault(name, value)


def runs_in_process(spec: EngineSpec, on_cpu: bool) -> bool:
    """Whether the engine core shares our process: by default on a CPU with one rank, where it starts faster."""
    return bool(spec.options.get("in_process", on_cpu and spec.num_gpus == 1))


def engine_arguments(spec: EngineSpec, config: Mapping[str, Any], on_cpu: bool) -> dict[str, Any]:
    """Keyword arguments of vLLM's EngineArgs; the spec's options win over our defaults."""
    arguments: dict[str, Any] = {
        "model": spec.model,
        "tokenizer": spec.model,
        "skip_tokenizer_init": not any((Path(spec.model) / name).is_file() for name in TOKENIZER_FILES),
        "dtype": spec.dtype,
        "max_model_len": spec.max_model_len,
        "load_format": spec.load_format,
        "seed": spec.seed,
        "tensor_parallel_size": spec.tensor_parallel,
        "pipeline_parallel_size": spec.pipeline_parallel,
        "max_num_seqs": spec.max_in_flight,
        # A prompt is prefilled whole, in one step: what the prefill methods are defined on.
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": spec.max_model_len + spec.max_in_flight,
        "enable_prefix_caching": True,
        "hf_overrides": rope_override(spec, config),
        "disable_log_stats": False,
    }
    if spec.num_gpus > 1:
        arguments["distributed_executor_backend"] = "ray" if spec.num_nodes > 1 else "mp"
    arguments |= _memory_arguments(spec, on_cpu)
    arguments |= _backend_arguments(spec, on_cpu)
    return arguments | {k: v for k, v in spec.options.items() if k not in OWN_OPTIONS}


def _memory_arguments(spec: EngineSpec, on_cpu: bool) -> dict[str, Any]:
    gib = spec.kv_cache_gib if spec.kv_cache_gib is not None else (DEFAULT_CPU_CACHE_GIB if on_cpu else None)
    if gib is None:
        return {"gpu_memory_utilization": spec.gpu_memory_utilization}
    return {"kv_cache_memory_bytes": int(gib * 2**30)}


def _backend_arguments(spec: EngineSpec, on_cpu: bool) -> dict[str, Any]:
    if on_cpu:
        own = {
            "worker_cls": f"{PACKAGE}.worker.SparseCPUWorker",
            "scheduler_cls": f"{PACKAGE}.scheduler.SparseScheduler",
        }
        # Compiling takes longer than most evaluations on a CPU.
        return {"enforce_eager": True, "block_size": 64} | (own if plugin_enabled(spec) else {})
    if not plugin_enabled(spec):
        return {}
    ahead = bool(spec.options.get("async_scheduling", spec.pipeline_parallel == 1))
    scheduler = "SparseAsyncScheduler" if ahead else "SparseScheduler"
    return {
        "worker_cls": f"{PACKAGE}.worker.SparseGPUWorker",
        "scheduler_cls": f"{PACKAGE}.scheduler.{scheduler}",
        "async_scheduling": ahead,
        "attention_config": {"backend": "CUSTOM"},
        "additional_config": {DECODE_GRAPHS: bool(spec.options.get("decode_graphs", True))},
    }


def classify_start(error: BaseException) -> EngineError:
    """What a failed start means for the caller, in one line."""
    text = " ".join(str(error).split())[:400] or type(error).__name__
    lowered = text.lower()
    if isinstance(error, EngineError):
        return error
    if "out of memory" in lowered or "no available memory" in lowered or "less than desired" in lowered:
        return EngineOutOfMemory(f"the model does not fit in memory: {text}")
    if "kv cache" in lowered and ("larger than" in lowered or "needed" in lowered):
        return EngineOutOfMemory(f"one request of full length does not fit in the KV cache: {text}")
    return EngineStartError(f"the engine did not start: {text}")


def core_processes(engine: Any) -> tuple[Any, ...]:
    """The processes that vLLM's engine runs in; none when it runs in ours."""
    resources = getattr(engine.engine_core, "resources", None)
    return tuple(getattr(getattr(resources, "engine_manager", None), "processes", ()))


def core_is_gone(engine: Any) -> bool:
    """Whether an engine process ended by itself: then vLLM's client waits for ever instead of raising."""
    return bool(getattr(getattr(engine.engine_core, "resources", None), "engine_dead", False))


def classify_death(error: BaseException, processes: Sequence[Any] = ()) -> type[EngineError]:
    """EngineKilled if somebody killed an engine process, EngineOutOfMemory if that was it, else EngineDead."""
    if any(process.exitcode == -signal.SIGKILL for process in processes):
        return EngineKilled
    return EngineOutOfMemory if "out of memory" in str(error).lower() else EngineDead
