"""From a spec to engine arguments, and each mistake to one clear line."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from workers.engine import EngineSpec
from workers.failures import EngineDead, EngineKilled, EngineOutOfMemory, EngineStartError
from workers.vllm_plugin import launch, ray_gang
from workers.vllm_plugin.stages import join_reports

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


def test_stages_and_hosts_choose_the_executor(folder: Path) -> None:
    alone = launch.engine_arguments(spec(folder), CONFIG, on_cpu=False)
    assert (alone["pipeline_parallel_size"], alone["async_scheduling"]) == (1, True)
    assert "distributed_executor_backend" not in alone
    staged = launch.engine_arguments(spec(folder, pipeline_parallel=2), CONFIG, on_cpu=False)
    assert (staged["pipeline_parallel_size"], staged["distributed_executor_backend"]) == (2, "mp")
    assert staged["scheduler_cls"].endswith(".SparseScheduler")
    assert not staged["async_scheduling"]
    wide = launch.engine_arguments(spec(folder, tensor_parallel=4, num_nodes=2), CONFIG, on_cpu=False)
    assert (wide["tensor_parallel_size"], wide["distributed_executor_backend"]) == (4, "ray")


def test_more_stages_than_layers_or_gpus(folder: Path) -> None:
    config = CONFIG | {"num_hidden_layers": 3}
    launch.check_parallel(spec(folder, pipeline_parallel=3), config, 3)
    with pytest.raises(EngineStartError, match="pipeline_parallel is 4; the model has 3 layers"):
        launch.check_parallel(spec(folder, pipeline_parallel=4), config, None)
    with pytest.raises(EngineStartError, match=r"tensor_parallel is 2 in 2 stages, but 2 GPU\(s\) are visible"):
        launch.check_parallel(spec(folder, tensor_parallel=2, pipeline_parallel=2), config, 2)
    launch.check_parallel(spec(folder, tensor_parallel=2, pipeline_parallel=2, num_nodes=2), config, 2)


@pytest.mark.parametrize(
    ("key", "changes", "environment", "message"),
    [
        ("GPU", {"tensor_parallel": 3}, {}, "which do not share its 3 GPUs evenly"),
        ("", {}, {}, "vLLM's Ray executor does not run on test"),
        ("GPU", {}, {ray_gang.SWITCH: "0"}, "VLLM_USE_RAY_V2_EXECUTOR_BACKEND=0 would leave out every method"),
        ("GPU", {}, {}, r"runs on a Ray cluster only \(frontier run SPEC --ray ADDRESS\)"),
    ],
)
def test_an_engine_over_several_hosts_says_what_it_lacks(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    key: str,
    changes: dict[str, Any],
    environment: dict[str, str],
    message: str,
) -> None:
    monkeypatch.setattr(ray_gang, "find_spec", lambda name: True)
    monkeypatch.setattr(ray_gang, "_cluster", lambda: None)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    platform = SimpleNamespace(ray_device_key=key, device_name="test")
    with pytest.raises(EngineStartError, match=message):
        ray_gang.check_gang(spec(folder, **({"tensor_parallel": 2, "num_nodes": 2} | changes)), platform)


def test_an_engine_over_several_hosts_names_its_cluster_to_its_core(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_gang, "find_spec", lambda name: True)
    monkeypatch.setattr(ray_gang, "_cluster", lambda: "10.0.0.1:6379")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv(ray_gang.SWITCH, raising=False)
    ray_gang.check_gang(spec(folder, tensor_parallel=2, num_nodes=2), SimpleNamespace(ray_device_key="GPU"))
    assert (os.environ["RAY_ADDRESS"], os.environ[ray_gang.SWITCH]) == ("10.0.0.1:6379", "1")


def test_reports_of_stages_keep_their_layers_and_ranks_their_heads() -> None:
    def report(prefill: tuple[float, ...], decode: float, kept: tuple[float, ...] = ()) -> dict[str, Any]:
        return {
            "density_prefill": prefill,
            "density_decode": decode,
            "kv_kept": kept,
            "num_restarts": 0,
            "peak_tokens": 7,
        }

    ranks = [report((0.1,), 0.2), report((0.3,), 0.4), report((0.5, 0.6), 0.3), report((0.7, 0.8), 0.3)]
    joined = join_reports(ranks, [1, 2])
    assert joined is not None
    assert joined.density_prefill == pytest.approx((0.2, 0.6, 0.7))
    assert joined.density_decode == pytest.approx((0.3 + 2 * 0.3) / 3)
    assert (joined.kv_kept, joined.peak_tokens) == ((), 7)
    assert join_reports([None, None], [1, 2]) is None
    half = join_reports([report((), 1.0), report((0.5, 0.6), 1.0)], [1, 2])
    assert half is not None
    assert half.density_prefill == (1.0, 0.5, 0.6)
