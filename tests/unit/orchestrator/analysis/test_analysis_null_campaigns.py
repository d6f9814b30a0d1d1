"""Error rates and power of the tests over simulated campaigns (issue: nominal error, more power than Welch)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from orchestrator.analysis.significance import benjamini_hochberg, holm, paired_test, welch_p_worse

CAMPAIGNS = 2000
CELLS = 12
SAMPLES = 100
QUERIES = (1, 1, 1, 1, 4, 4, 5, 5, 10, 10, 16, 16)
PROBABILITY = np.tile([0.3, 0.5, 0.7, 0.85], 3)
CORRELATION = np.tile([0.2, 0.8, 0.5, 0.9, 0.6, 0.0], 2)
Floats = npt.NDArray[np.float64]


def simulate(campaigns: int, loss: float, seed: int) -> tuple[Floats, Floats]:
    """Dense and sparse scores, [campaigns × CELLS, SAMPLES]; sparse succeeds with probability lower by `loss`."""
    generator = np.random.default_rng(seed)
    dense = np.empty((campaigns, CELLS, SAMPLES))
    sparse = np.empty_like(dense)
    for cell in range(CELLS):
        shape = (campaigns, SAMPLES, QUERIES[cell])
        first = generator.random(shape, dtype=np.float32)
        second = np.where(
            generator.random(shape, dtype=np.float32) < CORRELATION[cell],
            first,
            generator.random(shape, dtype=np.float32),
        )
        dense[:, cell] = (first < PROBABILITY[cell]).mean(axis=2)
        sparse[:, cell] = (second < PROBABILITY[cell] - loss).mean(axis=2)
    return dense.reshape(-1, SAMPLES), sparse.reshape(-1, SAMPLES)


@pytest.fixture(scope="module")
def null() -> tuple[Floats, Floats]:
    return simulate(CAMPAIGNS, 0.0, seed=1)


def test_paired_test_has_its_nominal_error_rate(null: tuple[Floats, Floats]) -> None:
    dense, sparse = null
    result = paired_test(sparse - dense)
    rates = [(result.p_worse < level).mean() for level in (0.01, 0.05, 0.10)]
    two_sided = (result.p_two_sided < 0.05).mean()
    assert rates == pytest.approx([0.01, 0.05, 0.10], rel=0.15)
    assert two_sided == pytest.approx(0.05, rel=0.1)


def test_intervals_cover_the_true_difference(null: tuple[Floats, Floats]) -> None:
    dense, sparse = null
    result = paired_test(sparse - dense)
    assert ((result.low <= 0) & (result.high >= 0)).mean() == pytest.approx(0.95, abs=0.007)


def test_noninferiority_errs_at_most_nominally_at_the_margin() -> None:
    dense, sparse = simulate(500, 0.05, seed=2)
    result = paired_test(sparse - dense, margin=0.05)
    assert (result.p_noninferior < 0.05).mean() == pytest.approx(0.05, abs=0.012)


def test_paired_test_is_more_powerful_than_welch_at_equal_error(null: tuple[Floats, Floats]) -> None:
    """Equal error: the worst cell's rate over the null campaigns. Welch's threshold is moved until they agree.

    Averaged over cells the two would be about equally powerful at equal *average* error: Welch's then errs
    far above its level where scores hardly correlate, and far below where they do.
    """
    dense, sparse = null
    paired_null = paired_test(sparse - dense).p_worse.reshape(CAMPAIGNS, CELLS)
    welch_null = welch_p_worse(dense, sparse).reshape(CAMPAIGNS, CELLS)
    error = (paired_null < 0.05).mean(axis=0).max()
    threshold = np.quantile(welch_null, error, axis=0).min()
    assert (welch_null < 0.05).mean() < 0.03
    dense, sparse = simulate(500, 0.05, seed=3)
    paired_power = (paired_test(sparse - dense).p_worse < 0.05).mean()
    welch_power = (welch_p_worse(dense, sparse) < threshold).mean()
    assert paired_power > welch_power + 0.1


def test_corrections_hold_the_family_wise_rate(null: tuple[Floats, Floats]) -> None:
    """At least one false alarm among a campaign's 12 tests: about 40 % uncorrected, at most 5 % with Holm."""
    dense, sparse = null
    p = paired_test(sparse - dense).p_two_sided.reshape(CAMPAIGNS, CELLS)
    uncorrected = (p.min(axis=1) < 0.05).mean()
    with_holm = np.mean([(holm(row) < 0.05).any() for row in p])
    with_bh = np.mean([(benjamini_hochberg(row) < 0.05).any() for row in p])
    assert uncorrected > 0.3
    assert with_holm <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / CAMPAIGNS)
    assert with_bh <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / CAMPAIGNS)


def test_holm_and_bh_by_hand() -> None:
    p = [0.01, 0.04, 0.03, 0.005, float("nan")]
    assert holm(p)[:4] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert benjamini_hochberg(p)[:4] == pytest.approx([0.02, 0.04, 0.04, 0.02])
    assert np.isnan(holm(p)[4])
    assert np.isnan(benjamini_hochberg(p)[4])


def test_pairs_without_any_difference_use_the_exact_bound() -> None:
    result = paired_test(np.zeros((2, 100)), margin=0.05)
    assert result.p_noninferior[0] == pytest.approx(0.95**100)
    assert result.p_worse[0] == 1
    assert result.low[0] == pytest.approx(-(1 - 0.025**0.01))
    few = paired_test(np.array([[0.0, np.nan, np.nan]]))
    assert (few.p_noninferior[0], few.low[0], few.high[0]) == (1, -1, 1)


@pytest.mark.parametrize("constant", [-0.04, -0.01, 0.0, 0.02])
def test_pairs_that_all_differ_alike_prove_no_more_than_the_worst_distribution_allows(constant: float) -> None:
    """The worst null: `constant` with the largest share that leaves a mean loss of the margin, else a loss of 1."""
    share, size = 0.95 / (1 + constant), 20
    assert share * constant - (1 - share) == pytest.approx(-0.05)
    result = paired_test(np.full((1, size), constant), margin=0.05)
    assert result.p_noninferior[0] == pytest.approx(share**size)
    assert result.p_two_sided[0] == pytest.approx(2 * 0.5**size if constant else 1)
    assert result.p_worse[0] == pytest.approx(0.5**size if constant < 0 else 1)


def test_holm_and_bh_match_brute_force_and_scipy() -> None:
    from scipy import stats

    generator = np.random.default_rng(5)
    for size in range(1, 25):
        p = generator.random(size) ** 3
        expected, running = np.empty(size), 0.0
        for rank, place in enumerate(np.argsort(p)):
            running = max(running, (size - rank) * p[place])
            expected[place] = min(1.0, running)
        assert holm(p) == pytest.approx(expected)
        assert benjamini_hochberg(p) == pytest.approx(stats.false_discovery_control(p))


def test_welch_matches_scipy() -> None:
    from scipy import stats

    generator = np.random.default_rng(0)
    dense, sparse = generator.random((5, 40)), generator.random((5, 40)) - 0.1
    expected = stats.ttest_ind(dense, sparse, axis=1, equal_var=False, alternative="greater").pvalue
    assert welch_p_worse(dense, sparse) == pytest.approx(expected)


def test_paired_matches_scipy() -> None:
    from scipy import stats

    differences = np.random.default_rng(0).normal(-0.05, 0.3, (4, 50))
    result = paired_test(differences, margin=0.1)
    assert result.p_worse == pytest.approx(stats.ttest_1samp(differences, 0, axis=1, alternative="less").pvalue)
    symmetric = np.concatenate([differences, -0.1 - differences], axis=1)
    result = paired_test(symmetric, margin=0.1)
    expected = stats.ttest_1samp(symmetric, -0.1, axis=1, alternative="greater").pvalue
    assert result.p_noninferior == pytest.approx(expected, rel=0.05)
