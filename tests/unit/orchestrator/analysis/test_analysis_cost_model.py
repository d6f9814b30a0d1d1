"""Crossings and break-even batches of the audit (4.1, points 3–5), and costs of points."""

from __future__ import annotations

import numpy as np
import pytest
from sparsekernels.parameters import MethodChoice, Quest

from orchestrator.analysis.cost_model import (
    CostSettings,
    break_even_batch,
    break_even_length,
    cost_table,
    crossing_length,
)
from orchestrator.analysis.frame import point_measurements, score_matrix
from orchestrator.analysis.frontier import frontier, interpolated_score, pareto_front
from orchestrator.analysis.scores import score_table
from orchestrator.analysis.synthetic import synthetic_campaign
from orchestrator.domain.flops import Formula
from orchestrator.domain.model_shapes import KNOWN_SHAPES

Q7, Q14, Q32, Q72 = (KNOWN_SHAPES[f"Qwen2.5-{size}-Instruct"] for size in ("7B", "14B", "32B", "72B"))
STEPS = ((Q7, Q14), (Q14, Q32), (Q32, Q72))
QUEST = MethodChoice(decode=Quest(token_budget=6400))


def test_prefill_crossings_at_20_times() -> None:
    """Section 4.1 audit 4, second half: 39k, 39k and 67k tokens under version 3's formula."""
    found = [crossing_length(small, large, formula=Formula.PRINTED_V3) for small, large in STEPS]
    assert [round(length / 1000) for length in found if length] == [39, 39, 67]


def test_version_1_crosses_far_too_early() -> None:
    """Section 4.1 audit 4, first half: 14B at 20× is cheaper than dense 7B from 23k tokens on."""
    assert crossing_length(Q7, Q14, formula=Formula.PRINTED_V1) == pytest.approx(23_284, abs=2)


def test_break_even_batches_at_128k() -> None:
    """Section 4.1 audit 5: 3.1, 1.7, 2.7, and 49 from 7B to 72B, index included."""
    pairs = (*STEPS, (Q7, Q72))
    found = [break_even_batch(small, large, 128_000, method=QUEST) for small, large in pairs]
    assert found == pytest.approx([3.07, 1.68, 2.74, 49.1], rel=5e-3)


def test_break_even_lengths_by_batch() -> None:
    """Section 4.1 audit 5: 393k/215k/350k at batch 1, 49k/27k/44k at 8, 6k/3k/5k at 64."""
    for batch, expected in ((1, (393, 215, 350)), (8, (49, 27, 44)), (64, (6, 3, 5))):
        found = [break_even_length(small, large, batch, method=QUEST) for small, large in STEPS]
        assert [round(length / 1000) for length in found if length] == list(expected)


def test_no_break_even_when_the_large_cache_alone_costs_more() -> None:
    assert break_even_batch(Q7, Q72, 128_000, density=0.5, method=QUEST) is None
    assert break_even_length(Q7, Q72, 8, density=0.5) is None
    assert crossing_length(Q7, Q72, density=1.0) is None


def test_costs_use_measured_densities_and_include_the_index() -> None:
    frames = synthetic_campaign(models={"Qwen2.5-7B-Instruct": 7.6}, lengths=(128000,), num_samples=10)
    points = score_table(score_matrix(frames), resamples=10)
    table = cost_table(points, point_measurements(frames), settings=CostSettings(formula=Formula.AUDITED))
    by = table[table["task"] == "qa_squad"].set_index(["method", "compression"])
    dense, quest = by.loc[("dense", 1.0)], by.loc[("quest", 20.0)]
    weights = dense["decode_bytes"] - 2 * Q7.kv_elements_per_token * 128000
    assert quest["decode_bytes"] - weights == pytest.approx((0.05 + 1 / 16) * (dense["decode_bytes"] - weights))
    assert quest["prefill_flops"] > dense["prefill_flops"]
    assert by.loc[("snapkv", 20.0)]["decode_bytes"] < quest["decode_bytes"]
    assert by.loc[("vertical_slash", 20.0)]["prefill_flops"] < 0.5 * dense["prefill_flops"]


def test_a_batch_shares_the_weights() -> None:
    frames = synthetic_campaign(models={"Qwen2.5-7B-Instruct": 7.6}, lengths=(16384,), num_samples=3)
    points = score_matrix(frames).points
    one, many = (cost_table(points, settings=CostSettings(batch=b))["decode_bytes"][0] for b in (1, 64))
    assert many < one / 5


def test_an_unknown_model_has_no_theoretical_cost() -> None:
    frames = synthetic_campaign(models={"somebody/own-9B": 9.0}, lengths=(16384,), num_samples=3)
    assert cost_table(score_matrix(frames).points)["prefill_flops"].isna().all()


def test_pareto_front_by_hand() -> None:
    cost, quality = [1, 2, 2, 3, 4, float("nan")], [0.2, 0.5, 0.4, 0.5, 0.6, 0.9]
    assert pareto_front(cost, quality).tolist() == [True, True, False, False, True, False]


def test_frontier_needs_every_task() -> None:
    frames = synthetic_campaign(
        models={"Qwen2.5-7B-Instruct": 7.6}, lengths=(16384,), num_samples=20, recorded_share=0.9
    )
    scores = score_table(score_matrix(frames), resamples=10)
    scored = cost_table(scores[scores["num_scored"] > 0], point_measurements(frames))
    front = frontier(scored, "prefill_flops", methods=("vertical_slash",))
    assert set(front["method"]) <= {"dense", "vertical_slash"}
    assert front["num_tasks"].nunique() == 1


def test_interpolation_does_not_extrapolate() -> None:
    found = interpolated_score(np.array([10.0, 1.0, 5.0]), np.array([0.2, 0.9, 0.5]), [1, 3, 7.5, 20])
    assert found[:3] == pytest.approx([0.9, 0.7, 0.35])
    assert np.isnan(found[3])
