"""Score tables, pairing, and admissible compression on small hand-made campaigns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest

from orchestrator.analysis.admissible import Rule, admissible_compression, largest
from orchestrator.analysis.compare import compare_campaigns
from orchestrator.analysis.frame import CampaignFrames, cells_frame, outcomes_frame, score_matrix
from orchestrator.analysis.from_counters import interval_from_counters
from orchestrator.analysis.length import admissible_budget, budget_exponent, relative_error
from orchestrator.analysis.scores import analytic_interval, bootstrap_interval, mean_over_tasks, score_table
from orchestrator.analysis.sensitivity import size_tolerance, task_sensitivity
from orchestrator.analysis.significance import compare_with_dense, paired_test
from orchestrator.analysis.synthetic import synthetic_campaign

Sample = tuple[str, float | None]


def campaign(rows: dict[tuple[str, float], Sequence[Sample]], seeds: int = 1, planned: int = 10) -> CampaignFrames:
    """One model, task and length; cells by (method, compression), each with (verdict, score) samples."""
    cells, outcomes = [], []
    for seed in range(seeds):
        for (method, compression), samples in rows.items():
            key = f"{method}-{compression:g}-{seed}"
            cell = {"campaign": "c", "cell_key": key, "model": "m-7B", "method": method, "task": "t", "seed": seed}
            cell |= {"phase": "dense" if method == "dense" else "decode", "budget": f"{compression:g}"}
            cells.append(cell | {"compression": compression, "length_tokens": 1000, "num_samples": planned})
            for index, (verdict, score) in enumerate(samples):
                own = {"cell_key": key, "seed": seed, "index": index, "sample_key": f"s{seed}-{index}"}
                failed = "" if verdict != "unscored" else "timeout"
                outcomes.append(own | {"verdict": verdict, "score": score, "failure_kind": failed})
    return CampaignFrames(name="c", state="done", cells=cells_frame(cells), outcomes=outcomes_frame([outcomes]))


def answered(*scores: float) -> list[Sample]:
    return [("correct" if score == 1 else "incorrect", score) for score in scores]


def test_all_denominators_are_given() -> None:
    frames = campaign({("dense", 1): [*answered(1, 1, 0), ("unanswered", 0.0), ("unscored", None)]})
    row = score_table(score_matrix(frames)).iloc[0]
    counts = row[["num_planned", "num_recorded", "num_scored", "num_unanswered", "num_unscored"]].tolist()
    assert counts == [10, 5, 4, 1, 1]
    assert row["mean"] == 2 / 4
    assert row["mean_recorded"] == 2 / 5
    assert row["mean_answered"] == 2 / 3
    assert row["low"] < 0.5 < row["high"]


def test_a_cell_without_outcomes_has_no_mean() -> None:
    frames = campaign({("dense", 1): answered(1, 0), ("quest", 2): []})
    table = score_table(score_matrix(frames), resamples=20)
    empty = table[table["method"] == "quest"].iloc[0]
    assert np.isnan(empty["mean"])
    assert empty["num_recorded"] == 0
    assert not frames.is_complete
    assert compare_with_dense(score_matrix(frames), resamples=20)["num_pairs"].tolist() == [0]


def test_seeds_of_a_point_are_pooled() -> None:
    frames = campaign({("dense", 1): answered(1, 0), ("quest", 2): answered(0, 0)}, seeds=3, planned=2)
    table = score_table(score_matrix(frames), resamples=20)
    assert table["num_scored"].tolist() == [6, 6]
    assert compare_with_dense(score_matrix(frames), resamples=20)["num_pairs"].tolist() == [6]


def test_only_the_same_sample_makes_a_pair() -> None:
    frames = campaign({("dense", 1): answered(1, 1, 1, 1), ("quest", 2): answered(1, 1, 0, 0)})
    keys = frames.outcomes["sample_key"].astype(str).to_numpy().copy()
    keys[-1] = "another prompt"
    changed = frames.outcomes.assign(sample_key=pd.Categorical(keys))
    table = compare_with_dense(score_matrix(_with(frames, changed)))
    assert table[["num_pairs", "num_unmatched"]].to_numpy().tolist() == [[3, 1]]
    assert table["difference"].iloc[0] == pytest.approx(-1 / 3)


def _with(frames: CampaignFrames, outcomes: pd.DataFrame) -> CampaignFrames:
    return CampaignFrames(name=frames.name, state=frames.state, cells=frames.cells, outcomes=outcomes)


def test_wilson_and_student_intervals() -> None:
    from scipy import stats

    binary = np.array([[1.0] * 8 + [0.0] * 2, [1.0] * 10])
    low, high = analytic_interval(binary)
    expected = [stats.binomtest(k, 10).proportion_ci(method="wilson") for k in (8, 10)]
    assert low == pytest.approx([e.low for e in expected])
    assert high == pytest.approx([e.high for e in expected])
    values = np.array([[0.25, 0.5, 0.5, 0.75, np.nan]])
    expected_t = stats.t.interval(0.95, 3, loc=0.5, scale=stats.sem(values[0, :4]))
    assert analytic_interval(values)[0][0] == pytest.approx(expected_t[0])


def test_bootstrap_and_analytic_intervals_agree_on_many_samples() -> None:
    scores = np.random.default_rng(0).beta(2, 3, (5, 400))
    for one, other in zip(analytic_interval(scores), bootstrap_interval(scores, resamples=2000), strict=True):
        assert one == pytest.approx(other, abs=0.004)


@pytest.mark.parametrize(
    ("passes", "ours", "theirs"),
    [
        ([True, True, False, True], 3.0, 10.0),
        ([False, True, True, True], 1.0, 10.0),
        ([True] * 4, 10.0, 10.0),
        ([False] * 4, 1.0, 1.0),
    ],
)
def test_our_rule_is_monotone_and_version_1s_is_not(passes: list[bool], ours: float, theirs: float) -> None:
    levels = np.array([2.0, 3.0, 5.0, 10.0])
    assert largest(levels, np.array(passes), Rule.NONINFERIOR) == ours
    assert largest(levels, np.array(passes), Rule.SPARSE_FRONTIER_V1) == theirs


def test_a_floor_task_gets_no_statement() -> None:
    frames = campaign({("dense", 1): answered(*[0.0] * 49, 1), ("quest", 2): answered(*[0.0] * 50)}, planned=50)
    row = admissible_compression(compare_with_dense(score_matrix(frames))).iloc[0]
    assert row["excluded"]
    assert np.isnan(row["admissible"])
    assert "no statement" in row["statement"]


def test_few_samples_show_nothing_where_version_1_sees_no_harm() -> None:
    scores = answered(1, 1, 1, 0, 1, 1, 0, 1)
    sparse = answered(1, 0, 1, 0, 1, 1, 0, 1)
    tests = compare_with_dense(score_matrix(campaign({("dense", 1): scores, ("quest", 20): sparse})))
    ours = admissible_compression(tests).iloc[0]
    theirs = admissible_compression(tests, rule=Rule.SPARSE_FRONTIER_V1).iloc[0]
    assert (ours["admissible"], theirs["admissible"]) == (1.0, 20.0)
    assert "not a guarantee" in theirs["statement"]


def test_the_walk_keeps_its_confidence_even_for_rare_total_losses() -> None:
    """Every level truly loses the margin, one prompt in twenty wholly: walks that admit any level are errors."""
    generator = np.random.default_rng(5)
    losses = (generator.random((1000, 4, 100)) < 0.05) * -1.0
    tests = paired_test(losses.reshape(-1, 100), margin=0.05).p_noninferior.reshape(1000, 4)
    admitted = [largest(np.arange(2.0, 6.0), p < 0.05, Rule.NONINFERIOR) > 1 for p in tests]
    assert np.mean(admitted) <= 0.05


def test_length_analysis_finds_the_budget_and_its_growth() -> None:
    rows = []
    for length, scale in ((16000, 0.2), (32000, 0.1), (64000, 0.05)):
        for compression in (2.0, 4.0, 16.0):
            loss = scale * np.log2(compression)
            same = {"method": "quest", "phase": "decode", "length_tokens": length, "compression": compression}
            rows.append(same | {"dense_mean": 1.0, "difference": -loss, "low": -loss, "high": -loss, "num_pairs": 9})
    errors = relative_error(pd.DataFrame(rows))
    assert errors["relative_error"].iloc[0] == pytest.approx(0.2)
    budgets = admissible_budget(errors, limits=(0.1, 0.3))
    tight = budgets[budgets["limit"] == 0.1].set_index("length_tokens")["compression"]
    assert tight.to_list() == pytest.approx([2**0.5, 2.0, 4.0])
    assert budgets[(budgets["limit"] == 0.3) & (budgets["length_tokens"] == 64000)]["beyond"].all()
    growth = budget_exponent(budgets).set_index("limit")["exponent"]
    assert growth[0.1] == pytest.approx(np.polyfit(np.log([16, 32, 64]), np.log([16 / 2**0.5, 16, 16]), 1)[0])


def test_sensitivity_orders_methods_as_the_truth_does() -> None:
    frames = synthetic_campaign(num_samples=40, lengths=(16384,))
    tests = compare_with_dense(score_matrix(frames), resamples=10)
    losses = task_sensitivity(tests).groupby("method")["loss_per_doubling"].mean()
    assert losses.idxmin() == "quest"
    assert losses.idxmax() == "snapkv"
    sizes = size_tolerance(tests)
    assert set(sizes["compression"]) == {20.0}
    assert sizes["model"].nunique() == 4


def test_the_mean_over_tasks_needs_every_task() -> None:
    frames = synthetic_campaign(num_samples=5, lengths=(16384,), recorded_share=0.95)
    table = score_table(score_matrix(frames), resamples=5)
    means = mean_over_tasks(table[table["num_scored"] > 0], ["model", "method", "compression"])
    assert set(means["num_tasks"]) == {9}


def test_compare_pairs_campaigns_by_sample() -> None:
    one = campaign({("dense", 1): answered(1, 1, 0, 0), ("quest", 2): answered(1, 0, 0, 0)})
    two = campaign({("dense", 1): answered(1, 1, 1, 0), ("snapkv", 2): answered(1, 0, 0, 0)})
    found = compare_campaigns(one, two)
    assert found.shared["method"].tolist() == ["dense"]
    assert found.shared["difference"].iloc[0] == pytest.approx(0.25)
    assert found.only_first["method"].tolist() == ["quest"]
    assert found.only_second["method"].tolist() == ["snapkv"]
    same = compare_campaigns(one, one)
    assert same.shared["identical_scores"].all()


def test_equal_scores_are_no_certainty() -> None:
    scores = np.array([[0.25] * 8, [0.4] + [np.nan] * 7, [1.0] * 8])
    low, high = analytic_interval(scores)
    assert low[0] < 0.1 < 0.5 < high[0]
    assert (low[1], high[1]) == pytest.approx((0.0358, 0.9229), abs=1e-3)  # one score alone tells little
    for row in range(3):
        known = scores[row][~np.isnan(scores[row])]
        told = interval_from_counters(len(known), known.sum(), (known**2).sum())
        assert told is not None
        assert (told.low, told.high) == pytest.approx((low[row], high[row]))


def test_bootstrap_of_a_row_with_few_scores_among_many_columns() -> None:
    """An unfinished cell: resamples without any of its scores are left out of both ends alike."""
    few = np.full((3, 400), np.nan)
    few[0, :4] = [0.25, 0.75, 0.5, 0.5]
    few[1] = np.random.default_rng(0).random(400)
    low, high = bootstrap_interval(few)
    assert 0.25 <= low[0] < 0.5 < high[0] <= 0.75
    assert high[1] - low[1] == pytest.approx(2 * 1.96 * few[1].std() / 20, rel=0.1)
    assert np.isnan(low[2])
    assert np.isnan(high[2])
