"""Shapes of the models in "The Sparse Frontier" (section 2 and its configs) and of our default model.

Sizes are the nominal ones in the models' names, in billions; the shapes are those of the published
`config.json` files.
"""

from __future__ import annotations

from orchestrator.domain.flops import ModelShape


def _dense(layers: int, hidden: int, heads: int, kv: int, mlp: int, vocab: int, head_dim: int = 128) -> ModelShape:
    return ModelShape(
        num_layers=layers,
        hidden_size=hidden,
        num_query_heads=heads,
        num_kv_heads=kv,
        head_dim=head_dim,
        intermediate_size=mlp,
        vocab_size=vocab,
    )


def _gemma(layers: int, hidden: int, heads: int, kv: int, mlp: int, head_dim: int) -> ModelShape:
    return ModelShape(
        num_layers=layers,
        hidden_size=hidden,
        num_query_heads=heads,
        num_kv_heads=kv,
        head_dim=head_dim,
        intermediate_size=mlp,
        vocab_size=262208,
        num_global_layers=layers // 6,
        window_tokens=1024,
    )


KNOWN_SHAPES: dict[str, ModelShape] = {
    "Qwen2.5-7B-Instruct": _dense(28, 3584, 28, 4, 18944, 152064),
    "Qwen2.5-14B-Instruct": _dense(48, 5120, 40, 8, 13824, 152064),
    "Qwen2.5-32B-Instruct": _dense(64, 5120, 40, 8, 27648, 152064),
    "Qwen2.5-72B-Instruct": _dense(80, 8192, 64, 8, 29568, 152064),
    "Llama-3.1-8B-Instruct": _dense(32, 4096, 32, 8, 14336, 128256),
    "Llama-3.1-70B-Instruct": _dense(80, 8192, 64, 8, 28672, 128256),
    "gemma-3-4b-it": _gemma(34, 2560, 8, 4, 10240, 256),
    "gemma-3-12b-it": _gemma(48, 3840, 16, 8, 15360, 256),
    "gemma-3-27b-it": _gemma(62, 5376, 32, 16, 21504, 128),
    "SmolLM2-135M-Instruct": _dense(30, 576, 9, 3, 1536, 49152, head_dim=64),
}
"""Shape by the last part of the model's name."""


def known_shape(model: str) -> ModelShape | None:
    """The shape for a model's name or path, compared by its last part without regard to case; None when unknown."""
    last = model.rstrip("/").rsplit("/", 1)[-1].lower()
    for name, shape in KNOWN_SHAPES.items():
        if name.lower() == last or name.lower().removesuffix("-instruct").removesuffix("-it") == last:
            return shape
    return None
