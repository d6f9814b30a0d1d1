"""Tiny random models of the families that we serve: full budgets are dense, small ones act on the right layers."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("vllm")
transformers = pytest.importorskip("transformers")

from tests.support.vllm_engines import VOCABULARY, run_requests, tiny_engine  # noqa: E402
from workers.engine import GenerationRequest  # noqa: E402

pytestmark = [pytest.mark.engine, pytest.mark.slow]

SHAPE: dict[str, Any] = dict(
    hidden_size=128, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
    head_dim=32, vocab_size=VOCABULARY, max_position_embeddings=2048, initializer_range=0.3,
)  # fmt: skip
GEMMA = {
    "sliding_window": 64,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    # Its output shares the embedding, which is scaled up: a larger spread makes every token predict itself.
    "initializer_range": 0.02,
}
FAMILIES = {
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", {}, 3),
    "llama": ("LlamaConfig", "LlamaForCausalLM", {}, 3),
    "gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM", GEMMA, 1),
}


def methods(budget: int) -> dict[str, dict[str, Any]]:
    """One method a phase, each with `budget` tokens."""
    kept = {"token_capacity": budget, "window": 32, "local_size": 16}
    return {
        "block_sparse": {"prefill": {"name": "block_sparse", "top_blocks": budget // 16, "block_size": 16}},
        "quest": {"decode": {"name": "quest", "token_budget": budget}},
        "snapkv": {"compress": {"name": "snapkv", **kept}},
    }


def requests() -> list[GenerationRequest]:
    prompt = random.Random(5).choices(range(3, VOCABULARY - 3), k=180)
    chosen = {"dense": {}} | {f"{n} {b}": m for b in (48, 512) for n, m in methods(b).items()}
    return [
        GenerationRequest(request_id=n, prompt_token_ids=prompt, max_tokens=8, method=m, report_layers=True)
        for n, m in chosen.items()
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_served(family: str, tmp_path: Path) -> None:
    config, model, own, num_served = FAMILIES[family]
    torch.manual_seed(0)
    built = getattr(transformers, model)(getattr(transformers, config)(**(SHAPE | own))).float().eval()
    built.save_pretrained(tmp_path)
    engine = tiny_engine(tmp_path)
    try:
        done = run_requests(engine, requests())
    finally:
        engine.close()
    for name in methods(512):
        full, small = done[f"{name} 512"], done[f"{name} 48"]
        assert full.token_ids == done["dense"].token_ids, name
        assert engine.logprobs[f"{name} 512"] == pytest.approx(engine.logprobs["dense"], abs=1e-3), name
        assert engine.logprobs[f"{name} 48"] != pytest.approx(engine.logprobs["dense"], abs=1e-3), name
        assert small.kv_tokens_peak == 180 + 8 - 1, name
    assert len(done["block_sparse 48"].layers["density_prefill"]) == num_served
    assert len(done["snapkv 48"].layers["kv_kept"]) == num_served
    assert done["snapkv 48"].kv_kept == pytest.approx(48 / 180)
