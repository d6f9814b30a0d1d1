"""What a model weighs once loaded: its shape (`flops.ModelShape`) with what only memory depends on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.domain.flops import ModelShape, shape_from_config
from orchestrator.errors import ModelError

BYTES_PER_ELEMENT = {"float32": 4, "float": 4, "bfloat16": 2, "float16": 2, "half": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """A decoder-only transformer with grouped-query attention and a gated MLP, as an engine loads it."""

    name: str
    shape: ModelShape
    tied_embeddings: bool = False
    qkv_bias: bool = False
    extra_parameters: int = 0
    """Parameters loaded beside the text model (a vision tower)."""
    max_position: int = 0
    """Longest context without RoPE scaling, tokens; 0 when unknown."""
    element_bytes: int = 2

    @property
    def layer_parameters(self) -> int:
        """All weights of the layers: projections, MLP, norms."""
        shape = self.shape
        projections = shape.hidden_size * (2 * shape.query_size + 2 * shape.kv_size)
        bias = shape.query_size + 2 * shape.kv_size if self.qkv_bias else 0
        mlp = 3 * shape.hidden_size * shape.intermediate_size
        return shape.num_layers * (projections + bias + mlp + 2 * shape.hidden_size) + shape.hidden_size

    @property
    def num_parameters(self) -> int:
        """Loaded parameters."""
        tables = 1 if self.tied_embeddings else 2
        return self.layer_parameters + tables * self.shape.vocab_size * self.shape.hidden_size + self.extra_parameters

    @property
    def weight_bytes(self) -> int:
        """All loaded weights, bytes, before tensor parallelism."""
        return self.num_parameters * self.element_bytes

    @property
    def kv_bytes_per_token(self) -> int:
        """Keys and values of one token over all layers, bytes, before tensor parallelism."""
        return self.shape.kv_elements_per_token * self.element_bytes

    def check_split(self, tensor_parallel: int, pipeline_parallel: int) -> str | None:
        """Why the model cannot be split so, or None."""
        if pipeline_parallel > self.shape.num_layers:
            return f"{self.shape.num_layers} layers do not split into {pipeline_parallel} stages"
        return self.check_tensor_parallel(tensor_parallel)

    def check_tensor_parallel(self, tensor_parallel: int) -> str | None:
        """Why the heads cannot be split over so many GPUs, or None."""
        shape = self.shape
        if shape.num_query_heads % tensor_parallel:
            return f"{shape.num_query_heads} query heads do not split over {tensor_parallel} GPUs"
        if max(shape.num_kv_heads, tensor_parallel) % min(shape.num_kv_heads, tensor_parallel):
            return f"{shape.num_kv_heads} KV heads do not split over {tensor_parallel} GPUs"
        return None


def facts_from_folder(folder: Path, *, dtype: str = "auto") -> ModelFacts:
    """The facts in `folder/config.json`. Raises ModelError when it is missing or incomplete."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text())
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise ModelError(f"{path}: not valid JSON: {error}") from None
    return facts_from_config(config, name=folder.name, dtype=dtype, place=str(path))


def facts_from_config(
    config: Mapping[str, Any], *, name: str, dtype: str = "auto", place: str = "config.json"
) -> ModelFacts:
    """The facts in a parsed config.json; `dtype` other than `auto` overrides the stored element type."""
    text: Mapping[str, Any] = {**config, **(config.get("text_config") or {})}
    try:
        shape = shape_from_config(config)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{place}: {error} is missing or not a number") from None
    kind = str(text.get("model_type", ""))
    stored = str(text.get("dtype") or text.get("torch_dtype"))
    return ModelFacts(
        name=name,
        shape=shape,
        tied_embeddings=bool(text.get("tie_word_embeddings", kind.startswith("gemma"))),
        qkv_bias=bool(text.get("attention_bias", kind.startswith("qwen2"))),
        max_position=int(text.get("max_position_embeddings") or 0),
        element_bytes=BYTES_PER_ELEMENT.get(stored if dtype == "auto" else dtype, 2),
    )
