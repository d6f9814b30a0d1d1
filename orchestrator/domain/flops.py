"""Operations of a prefill and cache traffic of a decode step, from a model's shape. Plain arithmetic.

Sources: "The Sparse Frontier" (arXiv 2504.17768), v1 appendix D and v2/v3 appendix B, and an audit of
their formulas. `Formula` names which version is meant; they differ by more than a constant:

- PRINTED_V1: one projection in place of four, two MLP matrices, hidden size in the index terms.
- PRINTED_V3: all projections, gated MLP, decode weights without grouped KV heads (4 d²), hidden size in
  the index terms.
- AUDITED: as v3, with grouped KV heads in the weights and the head size in the index terms. It gives
  the figures of v3.
- EXECUTED: as AUDITED, but counts what an engine runs: causal pairs only (half the square), the
  output head for the last position only.

`density` is the share of causally allowed query–key pairs that are computed (1 is dense), or in decode
the share of cache entries read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import log2
from typing import Any

from sparsekernels.parameters import AdaSnapKV, BlockSparse, FlexPrefill, MethodChoice, Quest, SnapKV, VerticalSlash


class Formula(StrEnum):
    """Which published or corrected set of formulas is used; see the module's docstring."""

    PRINTED_V1 = "printed_v1"
    PRINTED_V3 = "printed_v3"
    AUDITED = "audited"
    EXECUTED = "executed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """The dimensions of a decoder that decide its cost."""

    num_layers: int
    hidden_size: int
    num_query_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    num_global_layers: int | None = None
    """Layers that see the whole context; None means all. The others see `window_tokens`."""
    window_tokens: int = 0
    """Reach of a local layer, tokens."""

    @property
    def global_layers(self) -> int:
        return self.num_layers if self.num_global_layers is None else self.num_global_layers

    @property
    def local_layers(self) -> int:
        return self.num_layers - self.global_layers

    @property
    def query_size(self) -> int:
        """Width of all query heads together; equals hidden_size in most models."""
        return self.num_query_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of the keys (or of the values) of one token in one layer."""
        return self.num_kv_heads * self.head_dim

    @property
    def kv_elements_per_token(self) -> int:
        """Cache elements of one token over all layers, keys and values."""
        return 2 * self.num_layers * self.kv_size


def shape_from_config(config: Mapping[str, Any]) -> ModelShape:
    """The shape in a Hugging Face `config.json` (its `text_config` where there is one).

    Raises KeyError naming a missing dimension.
    """
    text: Mapping[str, Any] = config.get("text_config") or config
    heads = int(text["num_attention_heads"])
    layers = int(text["num_hidden_layers"])
    return ModelShape(
        num_layers=layers,
        hidden_size=int(text["hidden_size"]),
        num_query_heads=heads,
        num_kv_heads=int(text.get("num_key_value_heads") or heads),
        head_dim=int(text.get("head_dim") or int(text["hidden_size"]) // heads),
        intermediate_size=int(text["intermediate_size"]),
        vocab_size=int(text["vocab_size"]),
        num_global_layers=_global_layers(text, layers),
        window_tokens=int(text.get("sliding_window") or 0),
    )


def _global_layers(text: Mapping[str, Any], layers: int) -> int | None:
    if text.get("layer_types"):
        return [str(kind) for kind in text["layer_types"]].count("full_attention")
    pattern = text.get("sliding_window_pattern") or text.get("_sliding_window_pattern")
    return layers // int(pattern) if pattern and text.get("sliding_window") else None


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillFlops:
    """Operations of one prefill, by part; `total` is for the whole batch."""

    embedding: float
    projections: float
    attention: float
    """Scores, softmax and values of the computed query–key pairs."""
    mlp: float
    logits: float
    index: float
    """Choosing what to compute."""

    @property
    def total(self) -> float:
        return self.embedding + self.projections + self.attention + self.mlp + self.logits + self.index


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeTraffic:
    """Elements read from memory for one token of each request in a batch; bytes are elements × bytes per element."""

    weights: float
    """Read once for the whole batch."""
    kv_cache: float
    index: float
    """Page summaries read to choose pages."""

    @property
    def total(self) -> float:
        return self.weights + self.kv_cache + self.index


def prefill_flops(
    shape: ModelShape,
    length_tokens: int,
    *,
    density: float = 1.0,
    method: MethodChoice | None = None,
    batch: int = 1,
    formula: Formula = Formula.EXECUTED,
) -> PrefillFlops:
    """Operations of the prefill of `batch` prompts of `length_tokens`; `method` adds its index cost."""
    length, d = float(length_tokens), shape.hidden_size
    per_token_mlp = 4 * d * shape.intermediate_size + 2 * shape.intermediate_size
    projection = 2 * length * d * d
    if formula is not Formula.PRINTED_V1:
        projection = 2 * length * d * (2 * shape.query_size + 2 * shape.kv_size)
        per_token_mlp = 2 * shape.intermediate_size * (3 * d + 1)
    positions = 1.0 if formula is Formula.EXECUTED else length
    return PrefillFlops(
        embedding=batch * 2 * length * d,
        projections=batch * shape.num_layers * projection,
        attention=batch * _attention_flops(shape, length, density, formula),
        mlp=batch * shape.num_layers * length * per_token_mlp,
        logits=batch * 2 * positions * d * shape.vocab_size,
        index=batch * prefill_index_flops(shape, length_tokens, method, formula=formula) if method else 0.0,
    )


def _attention_flops(shape: ModelShape, length: float, density: float, formula: Formula) -> float:
    reach = min(float(shape.window_tokens), length)
    pairs, local_pairs = length * length, length * reach
    if formula is Formula.EXECUTED:
        pairs = length * (length + 1) / 2
        local_pairs = length * reach - reach * (reach - 1) / 2
    head_dim = shape.hidden_size / shape.num_query_heads if formula is Formula.PRINTED_V1 else shape.head_dim
    per_pair = shape.num_query_heads * (4 * head_dim + 3)
    return per_pair * (shape.global_layers * density * pairs + shape.local_layers * local_pairs)


def decode_traffic(
    shape: ModelShape,
    context_tokens: int,
    *,
    density: float = 1.0,
    method: MethodChoice | None = None,
    batch: int = 1,
    formula: Formula = Formula.EXECUTED,
) -> DecodeTraffic:
    """Elements read for one decode step of `batch` requests, each with `context_tokens` in its cache.

    PRINTED_V1 counts operations in both phases and has no traffic formula: ValueError.
    """
    if formula is Formula.PRINTED_V1:
        raise ValueError("version 1 counts operations in decode; use decode_flops_v1")
    local = min(shape.window_tokens, context_tokens)
    read = shape.global_layers * density * context_tokens + shape.local_layers * local
    return DecodeTraffic(
        weights=weight_elements(shape, formula=formula),
        kv_cache=batch * 2 * shape.kv_size * read,
        index=batch * decode_index_elements(shape, context_tokens, method, formula=formula) if method else 0.0,
    )


def weight_elements(shape: ModelShape, *, formula: Formula = Formula.EXECUTED) -> float:
    """Weights read for one decode step; the input embedding's one row counts as nothing but in PRINTED_V3."""
    d = shape.hidden_size
    mlp = 3 * d * shape.intermediate_size
    if formula is Formula.PRINTED_V3:
        return float(shape.num_layers * (4 * d * d + mlp) + d * (shape.vocab_size + 1))
    projections = 2 * d * shape.query_size + 2 * d * shape.kv_size
    return float(shape.num_layers * (projections + mlp) + d * shape.vocab_size)


def decode_flops_v1(shape: ModelShape, context_tokens: int, *, density: float = 1.0) -> float:
    """Version 1's cost of one new token that attends to `context_tokens`, operations."""
    d, length = shape.hidden_size, float(context_tokens)
    attention = 2 * d * d + density * (4 * length * d + 3 * shape.num_query_heads * length)
    mlp = 4 * d * shape.intermediate_size + 2 * shape.intermediate_size
    return 2 * d + shape.num_layers * (attention + mlp) + 2 * d * shape.vocab_size


def prefill_index_flops(
    shape: ModelShape, length_tokens: int, method: MethodChoice, *, formula: Formula = Formula.EXECUTED
) -> float:
    """Operations that the methods in `method` spend on one prompt to choose pairs or cache entries, all layers.

    Vertical-slash is the papers' formula; the others are counted the same way (our own): scores of the
    estimation window, pooling, sorting, and Quest's one-time page bounds.
    """
    size = _index_width(shape, formula)
    length, total = float(length_tokens), 0.0
    for chosen in (method.prefill, method.decode, method.compress):
        count = _INDEX_FLOPS.get(type(chosen))
        if count is not None:
            total += count(shape, length, size, chosen)
    return shape.global_layers * total


def _index_width(shape: ModelShape, formula: Formula) -> int:
    printed = formula in (Formula.PRINTED_V1, Formula.PRINTED_V3)
    return shape.hidden_size if printed else shape.head_dim


def _window_scores(shape: ModelShape, length: float, size: int, window: int) -> float:
    return shape.num_query_heads * (2 * size * length * window + 3 * length * window)


def _vertical_slash(shape: ModelShape, length: float, size: int, chosen: VerticalSlash) -> float:
    merged = length / 64 * (chosen.vertical_size + chosen.slash_size)
    choose = 2 * length * chosen.window + 2 * length * log2(length) + merged
    return _window_scores(shape, length, size, chosen.window) + shape.num_query_heads * choose


def _flexprefill(shape: ModelShape, length: float, size: int, chosen: FlexPrefill) -> float:
    choose = 2 * length * chosen.window + 2 * length * log2(length) + length / 64 * 2 * chosen.min_budget
    return _window_scores(shape, length, size, chosen.window) + shape.num_query_heads * choose


def _block_sparse(shape: ModelShape, length: float, size: int, chosen: BlockSparse) -> float:
    rows, blocks = length / chosen.rows, length / chosen.block_size
    pooling = 2 * length * size
    scores = rows * blocks / 2 * (2 * size + log2(max(blocks, 2)))
    return shape.num_query_heads * (pooling + scores)


def _snapkv(shape: ModelShape, length: float, size: int, chosen: SnapKV | AdaSnapKV) -> float:
    pool = 2 * length + shape.num_kv_heads / shape.num_query_heads * length * log2(length)
    votes = length * chosen.window
    return _window_scores(shape, length, size, chosen.window) + shape.num_query_heads * (votes + pool)


def _quest_pages(shape: ModelShape, length: float, size: int, chosen: Quest) -> float:
    return 2 * shape.num_kv_heads * length * size


_INDEX_FLOPS: dict[type, Callable[[ModelShape, float, int, Any], float]] = {
    VerticalSlash: _vertical_slash,
    FlexPrefill: _flexprefill,
    BlockSparse: _block_sparse,
    SnapKV: _snapkv,
    AdaSnapKV: _snapkv,
    Quest: _quest_pages,
}


def decode_index_elements(
    shape: ModelShape, context_tokens: int, method: MethodChoice, *, formula: Formula = Formula.EXECUTED
) -> float:
    """Elements read per request and step to choose pages: Quest reads two bounds a page; other methods none."""
    if not isinstance(method.decode, Quest):
        return 0.0
    size = _index_width(shape, formula)
    return 2 * shape.global_layers * shape.num_kv_heads * size * context_tokens / method.decode.page_size


def effective_density(density: float, method: MethodChoice) -> float:
    """Share of the dense cache read, index included: Quest at 0.05 with pages of 16 reads 0.05 + 1/16."""
    return density + (1 / method.decode.page_size if isinstance(method.decode, Quest) else 0.0)
