"""The formulas give back the published figures. Section numbers are those of the audit of the paper (4.1, 4.2)."""

from __future__ import annotations

from statistics import mean

import pytest
from sparsekernels.parameters import BlockSparse, MethodChoice, Quest, VerticalSlash

from orchestrator.domain.flops import (
    Formula,
    ModelShape,
    decode_flops_v1,
    decode_traffic,
    effective_density,
    prefill_flops,
    prefill_index_flops,
    shape_from_config,
    weight_elements,
)
from orchestrator.domain.model_shapes import KNOWN_SHAPES, known_shape

QWENS = [KNOWN_SHAPES[f"Qwen2.5-{size}-Instruct"] for size in ("7B", "14B", "32B", "72B")]
GEMMA_12B = KNOWN_SHAPES["gemma-3-12b-it"]
QUEST = MethodChoice(decode=Quest(token_budget=6400))
VERTICAL_SLASH = MethodChoice(prefill=VerticalSlash(vertical_size=164, slash_size=164))
LENGTHS = (16384, 65536, 131072)


@pytest.mark.parametrize(
    ("length", "share", "speedup"), list(zip(LENGTHS, (40.2, 67.7, 79.9), (1.483, 2.204, 2.796), strict=True))
)
def test_prefill_share_and_speedup_when_projections_count_as_attention(
    length: int, share: float, speedup: float
) -> None:
    """Section 4.1 audit 1, figure 12 of v2/v3: the plotted values, mean of the four Qwens."""
    parts = [prefill_flops(shape, length, formula=Formula.AUDITED) for shape in QWENS]
    counted = [p.attention + p.projections for p in parts]
    assert 100 * mean(c / p.total for c, p in zip(counted, parts, strict=True)) == pytest.approx(share, abs=0.05)
    assert mean(p.total / (p.total - 0.8 * c) for c, p in zip(counted, parts, strict=True)) == pytest.approx(
        speedup, abs=5e-4
    )


@pytest.mark.parametrize(
    ("length", "share", "speedup"), list(zip(LENGTHS, (29, 62, 76), (1.31, 2.00, 2.59), strict=True))
)
def test_prefill_share_and_speedup_of_the_printed_equation(length: int, share: float, speedup: float) -> None:
    """Section 4.1 audit 1: what the equation as printed gives (density on scores and values only)."""
    dense = [prefill_flops(shape, length, formula=Formula.PRINTED_V3) for shape in QWENS]
    sparse = [prefill_flops(shape, length, density=0.2, formula=Formula.PRINTED_V3) for shape in QWENS]
    assert 100 * mean(p.attention / p.total for p in dense) == pytest.approx(share, abs=0.5)
    assert mean(d.total / s.total for d, s in zip(dense, sparse, strict=True)) == pytest.approx(speedup, abs=6e-3)


DECODE = {1: (7, 22, 35, 1.06, 1.21, 1.41), 8: (35, 67, 80, 1.41, 2.22, 2.84), 64: (80, 94, 97, 2.84, 4.06, 4.46)}


@pytest.mark.parametrize("batch", DECODE)
def test_decode_share_and_speedup_with_grouped_kv_heads(batch: int) -> None:
    """Section 4.1 audit 2, figure 13: reproduced with GQA-aware weights."""
    for length, share, speedup in zip(LENGTHS, DECODE[batch][:3], DECODE[batch][3:], strict=True):
        dense = [decode_traffic(s, length, batch=batch, formula=Formula.AUDITED) for s in QWENS]
        sparse = [decode_traffic(s, length, batch=batch, density=0.2, formula=Formula.AUDITED) for s in QWENS]
        assert 100 * mean(d.kv_cache / d.total for d in dense) == pytest.approx(share, abs=0.5)
        assert mean(d.total / s.total for d, s in zip(dense, sparse, strict=True)) == pytest.approx(speedup, abs=5.1e-3)


def test_printed_decode_weights_give_other_shares() -> None:
    """Section 4.1 audit 2: the printed 4 d² gives 6.0, 20.0 and 32.9 % at batch 1."""
    for length, share in zip(LENGTHS, (6.0, 20.0, 32.9), strict=True):
        dense = [decode_traffic(s, length, formula=Formula.PRINTED_V3) for s in QWENS]
        assert 100 * mean(d.kv_cache / d.total for d in dense) == pytest.approx(share, abs=0.06)


def test_quest_reads_more_than_its_nominal_budget() -> None:
    """Section 4.1 audit 3: the index is 1/16 of the dense read, so 20× nominal is 8.9×."""
    dense = decode_traffic(QWENS[0], 128000, formula=Formula.AUDITED)
    quest = decode_traffic(QWENS[0], 128000, density=0.05, method=QUEST, formula=Formula.AUDITED)
    assert quest.index / dense.kv_cache == pytest.approx(1 / 16)
    assert dense.kv_cache / (quest.kv_cache + quest.index) == pytest.approx(8.9, abs=0.05)
    assert 1 / effective_density(0.05, QUEST) == pytest.approx(8.9, abs=0.05)


def test_printed_index_terms_are_too_large() -> None:
    """Section 4.1 audit 3: with the hidden size, Quest's index is 1.75–4.0 dense reads, V-S's 22–50 % of dense."""
    reads = [
        decode_traffic(s, 16384, method=QUEST, formula=Formula.PRINTED_V3).index
        / decode_traffic(s, 16384, formula=Formula.PRINTED_V3).kv_cache
        for s in QWENS
    ]
    assert (min(reads), max(reads)) == (pytest.approx(1.75), pytest.approx(4.0))
    for formula, low, high in ((Formula.PRINTED_V3, 0.21, 0.51), (Formula.AUDITED, 0.001, 0.01)):
        for shape in QWENS:
            index = prefill_index_flops(shape, 16384, VERTICAL_SLASH, formula=formula)
            assert low < index / prefill_flops(shape, 16384, formula=formula).attention < high


def test_attention_shares_of_figure_14() -> None:
    """Section 4.2: Qwen-14B and Gemma-12B at batch 8; Gemma's 5 of 6 local layers cost a window of 1024."""
    expected = {
        16384: (50, 48, 28, 32),
        65536: (76, 79, 42, 61),
        131072: (86, 88, 54, 75),
    }
    for length, shares in expected.items():
        found = []
        for shape in (QWENS[1], GEMMA_12B):
            prefill = prefill_flops(shape, length, formula=Formula.AUDITED)
            decode = decode_traffic(shape, length, batch=8, formula=Formula.AUDITED)
            found += [(prefill.attention + prefill.projections) / prefill.total, decode.kv_cache / decode.total]
        assert [100 * f for f in found] == pytest.approx(list(shares), abs=0.6)


def test_absolute_prefill_costs_at_batch_64() -> None:
    """Section 4.2: 72B dense at 128k is 3.94e18 operations, 7B 5.39e17."""
    assert prefill_flops(QWENS[3], 128000, batch=64, formula=Formula.AUDITED).total == pytest.approx(3.94e18, rel=2e-3)
    assert prefill_flops(QWENS[0], 128000, batch=64, formula=Formula.AUDITED).total == pytest.approx(5.39e17, rel=2e-3)


def test_executed_counts_causal_pairs_and_one_row_of_logits() -> None:
    shape = ModelShape(
        num_layers=1,
        hidden_size=2,
        num_query_heads=1,
        num_kv_heads=1,
        head_dim=2,
        intermediate_size=1,
        vocab_size=5,
    )
    cost = prefill_flops(shape, 3)
    assert cost.attention == 6 * (4 * 2 + 3)
    assert cost.logits == 2 * 2 * 5
    windowed = ModelShape(**{**_as_dict(shape), "num_global_layers": 0, "window_tokens": 2})
    assert prefill_flops(windowed, 3, density=0.0).attention == 5 * (4 * 2 + 3)


def test_executed_weights_match_a_parameter_count() -> None:
    """Qwen2.5-7B has 7.62e9 parameters, of which the input embedding (152064 × 3584) is not read in decode."""
    assert weight_elements(QWENS[0]) + 152064 * 3584 == pytest.approx(7.616e9, rel=1e-3)


def test_version_1_has_no_traffic_formula() -> None:
    with pytest.raises(ValueError, match="decode_flops_v1"):
        decode_traffic(QWENS[0], 1000, formula=Formula.PRINTED_V1)
    assert decode_flops_v1(QWENS[0], 131072) > decode_flops_v1(QWENS[0], 131072, density=0.05)


def test_block_sparse_index_grows_with_the_square_of_the_length() -> None:
    choice = MethodChoice(prefill=BlockSparse(top_blocks=26))
    ratio = prefill_index_flops(QWENS[0], 65536, choice) / prefill_index_flops(QWENS[0], 16384, choice)
    assert 14 < ratio < 17


def test_shape_from_a_hugging_face_config() -> None:
    config = {
        "hidden_size": 3840,
        "num_hidden_layers": 48,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 256,
        "intermediate_size": 15360,
        "vocab_size": 262208,
        "sliding_window": 1024,
        "sliding_window_pattern": 6,
    }
    assert shape_from_config({"text_config": config}) == GEMMA_12B
    with pytest.raises(KeyError, match="vocab_size"):
        shape_from_config({k: v for k, v in config.items() if k != "vocab_size"})


def test_known_shapes_are_found_by_name_or_path() -> None:
    assert known_shape("Qwen/Qwen2.5-7B-Instruct") == QWENS[0]
    assert known_shape("/models/qwen2.5-7b") == QWENS[0]
    assert known_shape("somebody/else") is None


def _as_dict(shape: ModelShape) -> dict[str, int]:
    return {name: getattr(shape, name) for name in ModelShape.__slots__ if getattr(shape, name) is not None}
