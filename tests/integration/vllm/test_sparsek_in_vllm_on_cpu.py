"""`method: sparsek` in a real vLLM engine on a CPU: batched beside dense, tokens equal to the reference model's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("vllm")
transformers = pytest.importorskip("transformers")

from sparsekernels.sparsek.adapter import Adapter, fingerprint_tensors, save_adapter  # noqa: E402
from sparsekernels.sparsek.attention import Impl  # noqa: E402
from sparsekernels.sparsek.controls import split_slots  # noqa: E402
from sparsekernels.sparsek.definition import Gating  # noqa: E402
from sparsekernels.sparsek.scorer import Source  # noqa: E402

from workers.adapt.attend import Adapted, attention  # noqa: E402
from workers.engine import EngineSpec, Generation, GenerationFailure, GenerationRequest  # noqa: E402
from workers.vllm_engine import VllmEngine  # noqa: E402

pytestmark = [pytest.mark.engine, pytest.mark.slow]

SLOTS, NEW = 24, 10


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A small random Llama, on disk and in memory."""
    torch.manual_seed(3)
    config = transformers.LlamaConfig(
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=512,
        max_position_embeddings=512,
        initializer_range=0.2,
    )
    built = transformers.LlamaForCausalLM(config).eval()
    folder = tmp_path_factory.mktemp("model")
    built.save_pretrained(folder)
    return folder, built


def make_adapter(built: Any, path: Path, fingerprint: str | None = None) -> Adapter:
    draw = torch.Generator().manual_seed(5)
    weight = torch.randn(3, 2, 48, generator=draw)
    adapter = Adapter(
        weight=weight,
        slope=torch.full((3, 2), 0.01),
        source=Source.VALUES_AND_KEY_PAIRS,
        head_dim=32,
        model_fingerprint=fingerprint or fingerprint_tensors(built.state_dict()),
    )
    save_adapter(adapter, path)
    return adapter


def reference_tokens(built: Any, adapter: Adapter, prompt: list[int]) -> list[int]:
    """Greedy tokens by recomputing the whole sequence at every step."""
    ids = list(prompt)
    with torch.no_grad(), attention(built, Adapted(adapter, split_slots(SLOTS), Gating.STRAIGHT_THROUGH, Impl.TORCH)):
        for _ in range(NEW):
            logits = built(input_ids=torch.tensor([ids]), use_cache=False).logits
            ids.append(int(logits[0, -1].argmax()))
    return ids[len(prompt) :]


def run(engine: VllmEngine, requests: list[GenerationRequest]) -> dict[str, Generation | GenerationFailure]:
    for request in requests:
        engine.submit(request)
    done: dict[str, Generation | GenerationFailure] = {}
    while len(done) < len(requests):
        done |= {result.request_id: result for result in engine.poll(120.0)}
    return done


@pytest.mark.parametrize("ranks", [1, 2])
def test_tokens_equal_the_reference_in_a_mixed_batch(model: tuple[Path, Any], tmp_path: Path, ranks: int) -> None:
    folder, built = model
    path, foreign = tmp_path / "adapter.safetensors", tmp_path / "foreign.safetensors"
    adapter = make_adapter(built, path)
    make_adapter(built, foreign, fingerprint="0" * 64)
    draw = torch.Generator().manual_seed(1)
    prompts = [torch.randint(3, 500, (n,), generator=draw).tolist() for n in (90, 131, 57)]
    method = {"prefill": {"name": "sparsek", "adapter": str(path), "slots": SLOTS}}
    engine = VllmEngine(
        EngineSpec(
            model=str(folder),
            dtype="float32",
            max_model_len=256,
            kv_cache_gib=0.1,
            tensor_parallel=ranks,
            options={"ignore_eos": True},
        )
    )
    try:
        requests = [
            GenerationRequest(request_id=f"s{i}", prompt_token_ids=p, max_tokens=NEW, method=method)
            for i, p in enumerate(prompts)
        ]
        requests.append(GenerationRequest(request_id="dense", prompt_token_ids=prompts[0], max_tokens=NEW))
        wrong = {"prefill": {**method["prefill"], "adapter": str(foreign)}}
        requests.append(
            GenerationRequest(request_id="wrong", prompt_token_ids=prompts[0], max_tokens=NEW, method=wrong)
        )
        done = run(engine, requests)
    finally:
        engine.close()
    for i, prompt in enumerate(prompts):
        found = done[f"s{i}"]
        assert isinstance(found, Generation)
        assert list(found.token_ids) == reference_tokens(built, adapter, prompt)
        length = len(prompt)
        pairs = sum(min(row + 1, SLOTS) for row in range(length))
        assert found.density_prefill == pytest.approx(pairs / (length * (length + 1) / 2), abs=1e-6)
        read = [SLOTS / (length + step + 1) for step in range(NEW - 1)]
        assert min(read) <= found.density_decode <= max(read)
    dense = done["dense"]
    assert isinstance(dense, Generation)
    assert dense.density_prefill == 1.0
    refused = done["wrong"]
    assert isinstance(refused, GenerationFailure)
    assert "was trained on model 000000000000" in refused.failure.message
