"""Predictions from shapes: parameters, memory, seconds; against published counts and runs on an H200."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sparsekernels.parameters import MethodChoice

from orchestrator.domain.campaign_cost import engine_memory
from orchestrator.domain.cost import load_seconds, sample_cost
from orchestrator.domain.densities import nominal_densities
from orchestrator.domain.gpu_types import GIB, GPU_TYPES, find_gpu
from orchestrator.domain.known_models import KNOWN_MODELS, find_known
from orchestrator.domain.memory import plan_memory, smallest_tensor_parallel
from orchestrator.domain.model_facts import ModelFacts, facts_from_config, facts_from_folder
from orchestrator.errors import ModelError, UserError
from workers.engine import EngineSpec


def known(name: str) -> ModelFacts:
    facts = find_known(name)
    assert facts is not None
    return facts


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("Qwen/Qwen2.5-7B-Instruct", 7.616),
        ("qwen2.5-14b", 14.770),
        ("Qwen2.5-32B-Instruct", 32.764),
        ("qwen2.5-72b", 72.706),
        ("meta-llama/Llama-3.1-8B-Instruct", 8.030),
        ("Llama-3.1-70B", 70.554),
        ("Qwen/Qwen3-8B", 8.191),
        ("smollm2-135m", 0.1345),
    ],
)
def test_parameters_are_the_published_ones(name: str, billions: float) -> None:
    assert known(name).num_parameters / 1e9 == pytest.approx(billions, rel=1e-3)


def test_a_config_gives_the_same_facts_as_the_table(tmp_path: Path) -> None:
    config = {
        "model_type": "qwen2",
        "num_hidden_layers": 28,
        "hidden_size": 3584,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "intermediate_size": 18944,
        "vocab_size": 152064,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "sliding_window": 131072,
        "use_sliding_window": False,
        "max_position_embeddings": 32768,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    facts, table = facts_from_folder(tmp_path), known("qwen2.5-7b")
    assert (facts.num_parameters, facts.kv_bytes_per_token) == (table.num_parameters, table.kv_bytes_per_token)
    assert facts.shape.local_layers == 0
    assert facts_from_config(config, name="x", dtype="float32").weight_bytes == 2 * facts.weight_bytes


def test_a_broken_config_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json: cannot be read"):
        facts_from_folder(tmp_path)
    (tmp_path / "config.json").write_text('{"hidden_size": 4}')
    with pytest.raises(ModelError, match="num_attention_heads"):
        facts_from_folder(tmp_path)


def test_unknown_gpu_names_the_known_ones() -> None:
    assert find_gpu("h200") is GPU_TYPES["H200"]
    with pytest.raises(UserError, match=r"unknown GPU type 'H300'; known types: H200"):
        find_gpu("H300")


@pytest.mark.parametrize(
    ("model", "tensor_parallel", "length", "output", "in_flight", "measured"),
    [
        ("qwen2.5-7b", 1, 8192, 256, 16, 0.295),
        ("qwen2.5-7b", 1, 32768, 256, 16, 1.21),
        ("qwen2.5-7b", 1, 32000, 1, 1, 0.990),
        ("qwen2.5-7b", 1, 32000, 64, 8, 1.059),
        ("qwen2.5-72b", 2, 32000, 1, 1, 4.870),
        ("qwen2.5-72b", 2, 65000, 1, 1, 11.760),
        ("qwen2.5-72b", 2, 32000, 32, 3, 5.013),
    ],
)
def test_dense_samples_cost_what_was_measured_on_an_h200(
    model: str, tensor_parallel: int, length: int, output: int, in_flight: int, measured: float
) -> None:
    cost = sample_cost(
        known(model),
        GPU_TYPES["H200"],
        tensor_parallel=tensor_parallel,
        length_tokens=length,
        output_tokens=output,
        in_flight=in_flight,
    )
    assert cost.seconds == pytest.approx(measured, rel=0.07)


def test_sparse_methods_cost_less_and_cached_prefills_nothing() -> None:
    def seconds(method: dict[str, dict[str, object]], **other: bool) -> float:
        options = {"tensor_parallel": 1, "length_tokens": 65536, "method": method, **other}
        return sample_cost(known("qwen2.5-7b"), GPU_TYPES["H200"], **options).seconds  # type: ignore[arg-type]

    block = {"prefill": {"name": "block_sparse", "top_blocks": 104}}
    quest = {"decode": {"name": "quest", "token_budget": 1024}}
    assert seconds(block) < 0.75 * seconds({})
    assert seconds(quest) < seconds({})
    assert seconds(quest, prefill_cached=True) < 0.1 * seconds(quest)


def test_the_measured_load_of_72b_on_two_gpus() -> None:
    assert load_seconds(known("qwen2.5-72b"), 2) == pytest.approx(129, rel=0.02)


def test_densities_of_known_budgets() -> None:
    def density(wire: dict[str, dict[str, object]]) -> tuple[float, float]:
        found = nominal_densities(MethodChoice.from_wire(wire), 16384)
        return round(found.prefill, 2), round(found.decode, 2)

    assert density({}) == (1.0, 1.0)
    assert density({"prefill": {"name": "block_sparse", "top_blocks": 26}}) == (0.05, 1.0)
    assert density({"prefill": {"name": "block_sparse", "top_blocks": 300}}) == (0.5, 1.0)
    assert density({"decode": {"name": "quest", "token_budget": 816}}) == (1.0, 0.05)
    assert density({"compress": {"name": "snapkv", "token_capacity": 8192}}) == (1.0, 0.5)


def test_memory_adds_up() -> None:
    qwen, h200 = known("qwen2.5-7b"), GPU_TYPES["H200"]
    plan = plan_memory(qwen, h200, tensor_parallel=1, max_model_len=32768, page_summaries=False)
    budget = int(GPU_TYPES["H200"].memory_bytes * 0.9)
    assert plan.weight_bytes + plan.activation_bytes + plan.overhead_bytes + plan.kv_bytes == budget
    assert plan.weight_bytes / GIB == pytest.approx(14.19, abs=0.01)
    assert plan.kv_capacity_tokens == plan.kv_bytes // (57344 * 16) * 16
    assert plan.fits
    assert "requests at once" in plan.verdict
    ours = plan_memory(qwen, h200, tensor_parallel=1, max_model_len=32768)
    assert plan.kv_bytes - ours.kv_bytes == plan.kv_bytes // 17  # as the plugin's worker takes it
    eager = plan_memory(qwen, h200, tensor_parallel=1, max_model_len=32768, eager=True)
    assert eager.activation_bytes - plan.activation_bytes == (32768 + 16) * 3584 * 2


def test_memory_follows_the_settings_of_the_engine() -> None:
    def capacity(**options: object) -> int:
        engine = EngineSpec(model="qwen2.5-7b", max_model_len=32768, options=options)
        return engine_memory(engine, known("qwen2.5-7b"), GPU_TYPES["H200"]).kv_capacity_tokens

    assert capacity(plugin=False) > capacity() > capacity(enforce_eager=True) > capacity(max_num_batched_tokens=131072)


def test_memory_refuses_what_cannot_hold_one_request() -> None:
    plan = plan_memory(known("qwen2.5-32b"), GPU_TYPES["H100"], tensor_parallel=1, max_model_len=131072)
    assert not plan.fits
    assert "does not fit" in plan.verdict
    large = plan_memory(known("qwen2.5-72b"), GPU_TYPES["H100"], tensor_parallel=1, max_model_len=1024)
    assert not large.fits
    assert "before any KV cache" in large.verdict


def test_a_fixed_cache_is_taken_or_refused() -> None:
    small = known("smollm2-135m")
    fixed = plan_memory(small, GPU_TYPES["CPU"], tensor_parallel=1, max_model_len=4096, kv_cache_bytes=2 * GIB)
    assert fixed.kv_bytes == 2 * GIB
    assert not plan_memory(small, GPU_TYPES["CPU"], tensor_parallel=1, max_model_len=4096, kv_cache_bytes=64 * GIB).fits


def test_smallest_tensor_parallel_that_fits() -> None:
    h100 = GPU_TYPES["H100"]
    assert smallest_tensor_parallel(known("qwen2.5-7b"), h100, max_model_len=32768) == 1
    assert smallest_tensor_parallel(known("qwen2.5-32b"), h100, max_model_len=65536) == 2
    assert smallest_tensor_parallel(known("qwen2.5-72b"), h100, max_model_len=65536) == 4
    assert smallest_tensor_parallel(known("qwen2.5-72b"), h100, max_model_len=65536, gpus_per_node=2) is None


def test_local_layers_need_little_cache() -> None:
    gemma = plan_memory(
        known("gemma-3-27b"), GPU_TYPES["H200"], tensor_parallel=1, max_model_len=65536, num_batched_tokens=8192
    )
    assert gemma.kv_needed_bytes < 0.4 * known("gemma-3-27b").kv_bytes_per_token * 65536


def test_every_known_model_fits_somewhere() -> None:
    for facts in KNOWN_MODELS:
        length = min(16384, facts.max_position)
        assert smallest_tensor_parallel(facts, GPU_TYPES["H200"], max_model_len=length) in (1, 2), facts.name


def test_heads_that_do_not_split_are_named() -> None:
    assert known("smollm2-135m").check_tensor_parallel(2) == "9 query heads do not split over 2 GPUs"
    assert known("qwen2.5-7b").check_tensor_parallel(4) is None


def test_stages_share_the_layers_and_one_table_stays_whole() -> None:
    """Of Qwen2.5-72B's 80 layers three stages have 27, 27 and 26; the first holds the embeddings, the last the head."""
    qwen, h100 = known("qwen2.5-72b"), GPU_TYPES["H100"]
    whole = plan_memory(qwen, h100, tensor_parallel=4, max_model_len=1024)
    staged = plan_memory(qwen, h100, tensor_parallel=4, pipeline_parallel=3, max_model_len=1024)
    table = qwen.shape.vocab_size * qwen.shape.hidden_size * 2 / 4
    assert staged.weight_bytes == pytest.approx((whole.weight_bytes - 2 * table) * 27 / 80 + table, rel=1e-6)
    assert staged.kv_bytes_per_token == whole.kv_bytes_per_token * 27 / 80
    assert staged.kv_needed_bytes == pytest.approx(whole.kv_needed_bytes * 27 / 80, rel=1e-6)
    assert staged.kv_capacity_tokens > 3 * whole.kv_capacity_tokens
    two = plan_memory(qwen, h100, tensor_parallel=2, pipeline_parallel=2, max_model_len=1024)
    assert two.weight_bytes == pytest.approx(whole.weight_bytes, rel=0.02)
    assert qwen.check_split(2, 81) == "80 layers do not split into 81 stages"


def test_stages_are_as_fast_as_gpus_side_by_side_while_there_are_requests() -> None:
    options = {"length_tokens": 32768, "tensor_parallel": 8}
    qwen, h100 = known("qwen2.5-72b"), GPU_TYPES["H100"]
    one = sample_cost(qwen, h100, in_flight=16, **options)  # type: ignore[arg-type]
    two = sample_cost(qwen, h100, in_flight=16, pipeline_parallel=2, **options)  # type: ignore[arg-type]
    assert two.prefill_seconds == pytest.approx(one.prefill_seconds / 2)
    assert one.decode_seconds / 2 < two.decode_seconds < one.decode_seconds
    alone = sample_cost(qwen, h100, in_flight=1, pipeline_parallel=2, **options)  # type: ignore[arg-type]
    assert alone.prefill_seconds == pytest.approx(one.prefill_seconds), "a single request passes one stage at a time"
