"""From a spec to engine arguments, and each mistake to one clear line."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from workers.engine import EngineSpec
from workers.failures import EngineDead, EngineKilled, EngineOutOfMemory, EngineStartError
from workers.vllm_plugin import launch

CONFIG = {"num_attention_heads": 28, "num_key_value_heads": 4, "rope_theta": 1000000.0}


def spec(folder: Path, **changes: Any) -> EngineSpec:
    return EngineSpec(**({"model": str(folder), "max_model_len": 1024} | changes))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


def test_a_missing_folder_config_or_weights_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineStartError, match="is no folder"):
        launch.read_model_config(spec(tmp_path / "nowhere"))
    with pytest.raises(EngineStartError, match="has no weights"):
        launch.read_model_config(spec(folder))
    assert launch.read_model_config(spec(folder, load_format="dummy")) == CONFIG
    (folder / "config.json").write_text("{")
    with pytest.raises(EngineStartError, match=r"config\.json"):
        launch.read_model_config(spec(folder, load_format="dummy"))


@pytest.mark.parametrize("ranks", [1, 2, 4, 7, 14, 28])
def test_tensor_parallel_sizes(folder: Path, ranks: int) -> None:
    allowed = ranks in (1, 2, 4, 28)
    if allowed:
        launch.check_parallel(spec(folder, tensor_parallel=ranks), CONFIG, None)
    else:
        with pytest.raises(EngineStartError, match=f"tensor_parallel is {ranks}"):
            launch.check_parallel(spec(folder, tensor_parallel=ranks), CONFIG, None)


def test_more_ranks_than_gpus(folder: Path) -> None:
    with pytest.raises(EngineStartError, match=r"tensor_parallel is 4, but 2 GPU\(s\) are visible"):
        launch.check_parallel(spec(folder, tensor_parallel=4), CONFIG, 2)


def test_weights_that_cannot_fit_are_refused_before_anything_starts(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(bytes(3000))
    (folder / "pytorch_model.bin").write_bytes(bytes(3000))
    launch.check_memory(spec(folder, tensor_parallel=2, gpu_memory_utilization=0.5), 3000)
    launch.check_memory(spec(folder, load_format="dummy"), 1)
    with pytest.raises(EngineOutOfMemory, match=r"on each of 1 device\(s\).*90% of a device"):
        launch.check_memory(spec(folder), 3000)


def test_rope_scaling_becomes_an_override_with_the_models_own_base(folder: Path) -> None:
    scaling = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32768}
    override = launch.rope_override(spec(folder, rope_scaling=scaling), CONFIG)
    assert override == {
        "rope_parameters": {"rope_theta": 1000000.0, **scaling},
        "max_position_embeddings": 65536,
    }
    assert launch.rope_override(spec(folder), CONFIG) == {}


def test_prompts_are_prefilled_whole_unless_told_otherwise(folder: Path) -> None:
    arguments = launch.engine_arguments(spec(folder, max_in_flight=8), CONFIG, on_cpu=False)
    assert arguments["enable_chunked_prefill"] is False
    assert arguments["max_num_batched_tokens"] == 1032
    assert arguments["worker_cls"].endswith("SparseGPUWorker")
    own = spec(folder, options={"enable_chunked_prefill": True, "in_process": True})
    changed = launch.engine_arguments(own, CONFIG, on_cpu=True)
    assert changed["enable_chunked_prefill"] is True
    assert "in_process" not in changed
    assert changed["kv_cache_memory_bytes"] == 2 * 2**30


def test_a_stock_engine_has_nothing_of_ours(folder: Path) -> None:
    arguments = launch.engine_arguments(spec(folder, options={"plugin": False}), CONFIG, on_cpu=False)
    assert not {"worker_cls", "scheduler_cls", "attention_config"} & set(arguments)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("CUDA out of memory. Tried to allocate 2 GiB", EngineOutOfMemory),
        ("No available memory for the cache blocks", EngineOutOfMemory),
        ("To serve one request, 4 GiB KV cache is needed, which is larger than the available 1 GiB", EngineOutOfMemory),
        ("Unknown architecture", EngineStartError),
    ],
)
def test_start_failures_are_classified_in_one_line(text: str, kind: type[Exception]) -> None:
    error = launch.classify_start(RuntimeError(text + "\nmore"))
    assert type(error) is kind
    assert "\n" not in str(error)


def test_deaths_are_classified() -> None:
    assert launch.classify_death(RuntimeError("CUDA out of memory")) is EngineOutOfMemory
    assert launch.classify_death(RuntimeError("boom")) is EngineDead
    running, crashed, killed = (SimpleNamespace(exitcode=code) for code in (None, 1, -signal.SIGKILL))
    assert launch.classify_death(RuntimeError("boom"), [running, crashed]) is EngineDead
    assert launch.classify_death(RuntimeError("boom"), [running, killed]) is EngineKilled
