"""On a GPU, random weights of Qwen2.5-7B shapes cut to four layers: every method at full budget is dense."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.engine_cases import SHAPES
from workers.engine import EngineSpec, Generation, GenerationRequest
from workers.vllm_engine import VllmEngine

pytestmark = [pytest.mark.gpu, pytest.mark.engine]

LENGTH = 6000
FULL: dict[str, dict[str, Any]] = {
    "dense": {},
    "vertical_slash": {"prefill": {"name": "vertical_slash", "vertical_size": 8192, "slash_size": 8192}},
    "flexprefill": {"prefill": {"name": "flexprefill", "alpha": 1.0, "min_budget": 8192}},
    "block_sparse": {"prefill": {"name": "block_sparse", "top_blocks": 512, "block_size": 64, "row_block": 128}},
    "quest": {"decode": {"name": "quest", "token_budget": 8192}},
    "snapkv": {"compress": {"name": "snapkv", "token_capacity": 8192}},
    "ada_snapkv": {"compress": {"name": "ada_snapkv", "token_capacity": 8192}},
    "snapkv+quest": {
        "compress": {"name": "snapkv", "token_capacity": 8192},
        "decode": {"name": "quest", "token_budget": 8192},
    },
}


def make_engine(folder: Path, **options: Any) -> VllmEngine:
    """Four layers, random weights, token ids in and out."""
    (folder / "config.json").write_text(json.dumps(SHAPES["qwen2.5-7b"] | {"num_hidden_layers": 4}))
    spec = EngineSpec(
        model=str(folder), max_model_len=8192, load_format="dummy", dtype="bfloat16", max_in_flight=16, kv_cache_gib=8,
        # Two engines share the device: vLLM wants the share that it may use to be free, whatever the cache's size.
        options={"ignore_eos": True, "logprobs": 0, "gpu_memory_utilization": 0.4, **options},
    )  # fmt: skip
    return VllmEngine(spec)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmEngine]:
    """As in production."""
    yield from started(tmp_path_factory.mktemp("graphs"))


@pytest.fixture(scope="module")
def piecewise(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmEngine]:
    """Without full graphs for steps of sparse rows."""
    yield from started(tmp_path_factory.mktemp("piecewise"), decode_graphs=False)


def started(folder: Path, **options: Any) -> Iterator[VllmEngine]:
    platforms = pytest.importorskip("vllm.platforms")
    # torch's own question would start CUDA in this process, and the engine's process could not be forked from it.
    if not platforms.current_platform.is_cuda():
        pytest.skip("no CUDA device")
    one = make_engine(folder, **options)
    try:
        yield one
    finally:
        one.close()


def run_together(engine: VllmEngine, methods: dict[str, dict[str, Any]], tokens: int = 24) -> dict[str, Generation]:
    """One prompt, all methods in flight at once."""
    prompt = random.Random(1).choices(range(1000, 40000), k=LENGTH)
    for name, method in methods.items():
        engine.submit(GenerationRequest(request_id=name, prompt_token_ids=prompt, max_tokens=tokens, method=method))
    done: dict[str, Generation] = {}
    while len(done) < len(methods):
        for result in engine.poll(30.0):
            assert isinstance(result, Generation), result
            done[result.request_id] = result
    return done


def agreement(engine: VllmEngine, done: dict[str, Generation], name: str) -> tuple[int, float]:
    """Leading tokens equal to dense, and the largest difference of their log-probabilities."""
    pairs = list(zip(done[name].token_ids, done["dense"].token_ids, strict=True))
    same = next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))
    logs = list(zip(engine.logprobs[name], engine.logprobs["dense"], strict=True))[:same]
    return same, max((abs(a - b) for a, b in logs), default=0.0)


def test_every_method_at_full_budget_is_dense_within_bfloat16(engine: VllmEngine) -> None:
    done = run_together(engine, FULL)
    for name in FULL:
        same, difference = agreement(engine, done, name)
        print(name, same, difference, done[name].density_prefill, done[name].density_decode, done[name].kv_kept)
        assert same >= 1, name
        assert difference < 0.05, name
        assert done[name].density_prefill == pytest.approx(1.0, abs=1e-9)
        assert done[name].density_decode == done[name].kv_kept == 1.0


SMALL: dict[str, dict[str, Any]] = {
    "dense": {},
    "quest": {"decode": {"name": "quest", "token_budget": 512}},
    "wide quest": {"decode": {"name": "quest", "token_budget": 1024}},
    "quest by head": {"decode": {"name": "quest", "token_budget": 512, "share_pages": False}},
    "snapkv": {"compress": {"name": "snapkv", "token_capacity": 1024}},
    "ada_snapkv": {"compress": {"name": "ada_snapkv", "token_capacity": 768}},
}


@pytest.mark.parametrize("names", [["quest"], ["snapkv", "ada_snapkv"], list(SMALL)])
def test_steps_from_our_graphs_equal_piecewise_ones(
    engine: VllmEngine, piecewise: VllmEngine, names: list[str]
) -> None:
    replayed = graphs_replayed(engine)
    methods = {f"{name} of {len(names)}": SMALL[name] for name in names}
    graphed, plain = (run_together(one, methods, tokens=64) for one in (engine, piecewise))
    assert graphs_replayed(engine) > replayed + 20
    assert graphs_replayed(piecewise) == 0
    for name in methods:
        pairs = list(zip(graphed[name].token_ids, plain[name].token_ids, strict=True))
        same = next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))
        logs = list(zip(engine.logprobs[name], piecewise.logprobs[name], strict=True))[:same]
        difference = max((abs(a - b) for a, b in logs), default=0.0)
        print(name, "equal tokens", same, "log-probabilities differ by", difference)
        assert same >= 16, name
        assert difference < 0.05, name
        assert graphed[name].density_decode == plain[name].density_decode
        assert graphed[name].kv_kept == plain[name].kv_kept


def graphs_replayed(engine: VllmEngine) -> int:
    (facts,) = engine._engine.collective_rpc("frontier_facts")
    return int(facts["graphs_replayed"])
