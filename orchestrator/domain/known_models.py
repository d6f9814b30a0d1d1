"""Facts of the models that campaigns of this field use, so that planning works without a download.

Shapes that the analyses know come from `model_shapes`; the rest from the public config.json of each model. Looked up
by hub id or by its last part, in any case.
"""

from __future__ import annotations

from orchestrator.domain.flops import ModelShape
from orchestrator.domain.model_facts import ModelFacts
from orchestrator.domain.model_shapes import KNOWN_SHAPES

GEMMA_VISION_PARAMETERS = 417_000_000
"""Vision tower and projector that the Gemma 3 checkpoints from 4B up carry."""


def _qwen25(size: str) -> ModelFacts:
    name = f"Qwen2.5-{size}-Instruct"
    return ModelFacts(name=f"Qwen/{name}", shape=KNOWN_SHAPES[name], qkv_bias=True, max_position=32768)


def _qwen3(size: str, layers: int, hidden: int, inner: int, heads: int, tied: bool = False) -> ModelFacts:
    shape = ModelShape(
        num_layers=layers,
        hidden_size=hidden,
        num_query_heads=heads,
        num_kv_heads=8,
        head_dim=128,
        intermediate_size=inner,
        vocab_size=151936,
    )
    return ModelFacts(name=f"Qwen/Qwen3-{size}", shape=shape, tied_embeddings=tied, max_position=40960)


def _llama31(size: str) -> ModelFacts:
    name = f"Llama-3.1-{size}-Instruct"
    return ModelFacts(name=f"meta-llama/{name}", shape=KNOWN_SHAPES[name], max_position=131072)


def _gemma3(size: str) -> ModelFacts:
    name = f"gemma-3-{size}-it"
    return ModelFacts(
        name=f"google/{name}",
        shape=KNOWN_SHAPES[name],
        tied_embeddings=True,
        extra_parameters=GEMMA_VISION_PARAMETERS,
        max_position=131072,
    )


SMOLLM2_135M = ModelFacts(
    name="HuggingFaceTB/SmolLM2-135M-Instruct",
    shape=KNOWN_SHAPES["SmolLM2-135M-Instruct"],
    tied_embeddings=True,
    max_position=8192,
)

KNOWN_MODELS: tuple[ModelFacts, ...] = (
    *(_qwen25(size) for size in ("7B", "14B", "32B", "72B")),
    _qwen3("0.6B", 28, 1024, 3072, 16, tied=True),
    _qwen3("1.7B", 28, 2048, 6144, 16, tied=True),
    _qwen3("4B", 36, 2560, 9728, 32, tied=True),
    _qwen3("8B", 36, 4096, 12288, 32),
    _qwen3("14B", 40, 5120, 17408, 40),
    _qwen3("32B", 64, 5120, 25600, 64),
    *(_llama31(size) for size in ("8B", "70B")),
    *(_gemma3(size) for size in ("4b", "12b", "27b")),
    SMOLLM2_135M,
)


def find_known(name: str) -> ModelFacts | None:
    """The known model of that hub id, folder name or short name such as `qwen2.5-7b`; None when there is none."""
    wanted = _short(name)
    return next((facts for facts in KNOWN_MODELS if _short(facts.name) == wanted), None)


def _short(name: str) -> str:
    last = name.rstrip("/").rsplit("/", 1)[-1].lower()
    for ending in ("-instruct", "-it"):
        last = last.removesuffix(ending)
    return last.replace("meta-", "")
