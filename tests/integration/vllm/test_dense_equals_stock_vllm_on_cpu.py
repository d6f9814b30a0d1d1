"""Real SmolLM2 on a CPU: dense requests through the plugin give the tokens of stock vLLM and of transformers; full
budgets give dense ones."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("vllm")
tokenizers = pytest.importorskip("tokenizers")

from tests.support.models import smollm2_folder  # noqa: E402
from tests.support.vllm_engines import run_requests  # noqa: E402
from workers.engine import EngineSpec, GenerationRequest  # noqa: E402
from workers.vllm_engine import VllmEngine  # noqa: E402

pytestmark = [pytest.mark.engine, pytest.mark.slow]

FACTS = ("capital of France", "colour of the sky", "largest planet", "author of Hamlet", "boiling point of water")
FULL: dict[str, dict[str, Any]] = {
    "vertical_slash": {"prefill": {"name": "vertical_slash", "vertical_size": 512, "slash_size": 512}},
    "flexprefill": {"prefill": {"name": "flexprefill", "alpha": 1.0, "min_budget": 512}},
    "block_sparse": {"prefill": {"name": "block_sparse", "top_blocks": 64}},
    "quest": {"decode": {"name": "quest", "token_budget": 512}},
    "snapkv": {"compress": {"name": "snapkv", "token_capacity": 512}},
    "ada_snapkv": {"compress": {"name": "ada_snapkv", "token_capacity": 512}},
}


def prompts(folder: Path) -> list[list[int]]:
    """Thirty-two questions of different lengths in the model's chat form."""
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    texts = []
    for i in range(32):
        draw = random.Random(i)
        filler = " ".join(f"Item {draw.randint(1, 99)} is {draw.choice(FACTS)}." for _ in range(2 + i % 9))
        question = f"{filler} What is the {FACTS[i % len(FACTS)]}?"
        texts.append(f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n")
    return [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]


def engine(folder: Path, **options: Any) -> VllmEngine:
    spec = EngineSpec(
        model=str(folder), dtype="float32", max_model_len=512, max_in_flight=32, kv_cache_gib=1, options=options
    )
    return VllmEngine(spec)


def greedy(started: VllmEngine, ids: Sequence[list[int]], method: dict[str, Any] | None = None) -> list[Any]:
    requests = [
        GenerationRequest(request_id=f"{i}", prompt_token_ids=p, max_tokens=16, method=method or {})
        for i, p in enumerate(ids)
    ]
    done = run_requests(started, requests)
    return [done[f"{i}"] for i in range(len(ids))]


def transformers_greedy(folder: Path, ids: Sequence[list[int]]) -> list[list[int]]:
    """What transformers generates in float32, one prompt at a time."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    made = []
    for prompt in ids:
        whole = model.generate(torch.tensor([prompt]), max_new_tokens=16, do_sample=False)
        made.append(whole[0, len(prompt) :].tolist())
    return made


def test_dense_is_stock_token_for_token_and_full_budgets_are_dense() -> None:
    folder = smollm2_folder()
    ids = prompts(folder)
    stock = engine(folder, plugin=False)
    try:
        assert stock.facts.executor == "stock"
        expected = greedy(stock, ids)
    finally:
        stock.close()
    ours = engine(folder)
    try:
        found = greedy(ours, ids)
        assert [r.token_ids for r in found] == [r.token_ids for r in expected]
        assert [r.text for r in found] == [r.text for r in expected]
        assert any("Paris" in r.text for r in found)
        assert [list(r.token_ids) for r in found[:20]] == transformers_greedy(folder, ids[:20])
        chosen = ids[:3]
        for name, method in FULL.items():
            full = greedy(ours, chosen, method)
            assert [r.token_ids for r in full] == [r.token_ids for r in expected[:3]], name
    finally:
        ours.close()
