"""Small models and engines for tests that run vLLM on a CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workers.engine import EngineSpec, Generation, GenerationRequest
from workers.vllm_engine import VllmEngine

VOCABULARY = 512


def tiny_model(folder: Path, kv_heads: int = 2) -> Any:
    """A random Qwen2 of three layers with 8 query heads, saved to `folder` and returned (float32)."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        hidden_size=256, intermediate_size=256, num_hidden_layers=3, num_attention_heads=8,
        num_key_value_heads=kv_heads, vocab_size=VOCABULARY, max_position_embeddings=2048, initializer_range=0.3,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config).float().eval()
    model.save_pretrained(folder)
    return model


def tiny_engine(folder: Path, *, options: Mapping[str, Any] | None = None, **changes: Any) -> VllmEngine:
    """An engine on a tiny model: float32, log-probabilities kept, no stop token."""
    base: dict[str, Any] = dict(dtype="float32", max_model_len=512, max_in_flight=16, kv_cache_gib=0.1)
    own = {"logprobs": 0, "ignore_eos": True, "block_size": 32, **(options or {})}
    return VllmEngine(EngineSpec(model=str(folder), **(base | changes), options=own))


def run_requests(engine: VllmEngine, requests: Sequence[GenerationRequest]) -> dict[str, Any]:
    """Submit all at once; results by request id."""
    for request in requests:
        engine.submit(request)
    done: dict[str, Any] = {}
    while len(done) < len(requests):
        done |= {result.request_id: result for result in engine.poll(60.0)}
    return done


def outcome(engine: VllmEngine, result: Generation) -> tuple[tuple[int, ...], list[float]]:
    """Tokens and their log-probabilities."""
    return result.token_ids, engine.logprobs[result.request_id]
