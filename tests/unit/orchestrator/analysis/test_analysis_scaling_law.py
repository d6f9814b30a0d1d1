"""A known law comes back within its stated error, saturated points included, and interactions win only when real."""

from __future__ import annotations

import numpy as np
import pytest

from orchestrator.analysis.frame import score_matrix
from orchestrator.analysis.interactions import compare_models
from orchestrator.analysis.robust_fit import Loss, minimise
from orchestrator.analysis.scaling_law import HoldOut, LawFit, fit_law, usable_points
from orchestrator.analysis.scores import score_table
from orchestrator.analysis.synthetic import TASKS, Law, synthetic_campaign

LAW = Law(
    intercept=-14.4,
    methods={"vertical_slash": ("prefill", -0.8)},
    tasks={name: (delta / 2, queries) for name, (delta, queries) in TASKS.items()},
)
TRUE = {"alpha": LAW.alpha, "beta": LAW.beta, "gamma": -0.8}


def points(seed: int = 43, num_samples: int = 100, law: Law = LAW):  # type: ignore[no-untyped-def]
    frames = synthetic_campaign(law=law, num_samples=num_samples, unanswered_share=0, failed_share=0, seed=seed)
    return usable_points(score_table(score_matrix(frames), resamples=2))


def errors(fit: LawFit) -> list[float]:
    return [abs(fit.value(name) - value) for name, value in TRUE.items()]


def test_the_deviance_fit_gives_the_law_back_within_its_intervals() -> None:
    """Over 12 simulated campaigns at least 29 of 36 nominal 95 % intervals hold the truth (binomial tail: p < 1e-3)."""
    held, deviations = 0, []
    for seed in range(12):
        fit = fit_law(points(seed), loss=Loss.BINOMIAL, resamples=40, reference_task="qa_quality")
        low, high = (dict(zip(fit.names, ends, strict=True)) for ends in (fit.low, fit.high))
        held += sum(low[name] <= value <= high[name] for name, value in TRUE.items())
        deviations.append([fit.value(name) - value for name, value in TRUE.items()])
    assert held >= 29
    assert np.abs(np.mean(deviations, axis=0)) == pytest.approx([0, 0, 0], abs=0.025)


def test_the_papers_fit_is_close_on_a_law_without_saturation() -> None:
    fit = fit_law(points(num_samples=400), resamples=0, reference_task="qa_quality")
    assert max(errors(fit)) < 0.06
    assert fit.fitted.r_squared > 0.97


@pytest.mark.parametrize("hold_out", [HoldOut.LENGTH, HoldOut.MODEL_SIZE, HoldOut.COMPRESSION])
def test_what_was_held_out_is_predicted(hold_out: HoldOut) -> None:
    fit = fit_law(points(), hold_out=hold_out, resamples=0)
    assert fit.held_out is not None
    assert fit.held_out.r_squared > 0.9
    assert fit.held_out.spearman > 0.95
    assert fit.held_out.mean_absolute_error < 0.04
    assert len(fit.per_task) == len(TASKS)


def test_outliers_move_the_huber_fit_less_than_the_squared_one() -> None:
    generator = np.random.default_rng(0)
    matrix = np.column_stack([np.ones(300), generator.normal(size=(300, 2))])
    target = matrix @ np.array([1.0, 2.0, -1.0]) + generator.normal(0, 0.1, 300)
    target[:30] += 15
    robust, squared = (minimise(matrix, target, loss) for loss in (Loss.HUBER, Loss.SQUARED))
    assert np.abs(robust - [1, 2, -1]).max() < 0.2
    assert np.abs(squared - [1, 2, -1]).max() > 1


def test_interactions_are_preferred_only_where_they_exist() -> None:
    plain = points()
    assert not compare_models(plain).prefers_interactions
    factor = plain["task"].map({task: 0.4 + 0.3 * i for i, task in enumerate(TASKS)})
    logit = np.log(plain["mean"].clip(0.02, 0.98) / (1 - plain["mean"].clip(0.02, 0.98)))
    twisted = logit - 0.25 * factor * np.log(plain["compression"])
    found = compare_models(plain.assign(mean=1 / (1 + np.exp(-twisted))))
    assert found.prefers_interactions
    assert found.gain > 0.005
    expected = [-0.8 - 0.25 * (0.4 + 0.3 * i) for i in range(len(TASKS))]
    assert [found.task_gamma[task] for task in TASKS] == pytest.approx(expected, abs=0.25)


def test_too_few_points_and_a_flat_axis_are_refused() -> None:
    some = points()
    with pytest.raises(ValueError, match="too few"):
        fit_law(some.head(3))
    with pytest.raises(ValueError, match="nothing can be held out"):
        fit_law(some[some["length_tokens"] < 65536], hold_out=HoldOut.LENGTH)
