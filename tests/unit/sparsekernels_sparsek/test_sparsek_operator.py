"""The operator against hand-worked numbers, other solvers of the same problem, and finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.optimize import brentq, minimize
from sparsekernels.sparsek.operator import Solver, gates_from_threshold, jacobian_product, sparsek, threshold
from torch import Tensor

WORKED = (2.0, 1.2, 0.9, 0.3, -0.5)
solvers = pytest.mark.parametrize("solver", list(Solver))


def rows(count: int, seed: int = 0) -> list[tuple[Tensor, float]]:
    """Random problems: 2–39 entries, scales 1e-3 … 1e2, with ties, whole and fractional k."""
    draw = torch.Generator().manual_seed(seed)
    found = []
    for case in range(count):
        size = int(torch.randint(2, 40, (1,), generator=draw))
        scale = 10 ** (float(torch.rand(1, generator=draw)) * 5 - 3)
        scores = torch.randn(size, generator=draw, dtype=torch.float64) * scale
        if case % 3 == 0:
            scores = (scores * 2 / scale).round() * scale / 2
        k = int(torch.randint(1, size, (1,), generator=draw))
        found.append((scores, k if case % 2 else k - 0.5 * float(torch.rand(1, generator=draw))))
    return found


def kkt_residual(scores: Tensor, gates: Tensor, k: float) -> float:
    """How far (gates, k) is from optimal: the sum, and the spread of the multipliers that the gates allow."""
    slack = scores - gates
    upper = slack[gates < 1 - 1e-12]
    lower = slack[gates > 1e-12]
    gap = float(upper.max() - lower.min()) if len(upper) and len(lower) else 0.0
    return max(abs(float(gates.sum()) - k), gap)


@solvers
@pytest.mark.parametrize(
    ("k", "tau", "gates"),
    [
        (2, 0.55, (1, 0.65, 0.35, 0, 0)),
        (1, 1.1, (0.9, 0.1, 0, 0, 0)),
        (3, 0.1, (1, 1, 0.8, 0.2, 0)),
        (2.5, 0.3, (1, 0.9, 0.6, 0, 0)),
    ],
)
def test_worked_example(solver: Solver, k: float, tau: float, gates: tuple[float, ...]) -> None:
    scores = torch.tensor(WORKED, dtype=torch.float64)
    assert float(threshold(scores, k, solver=solver)) == pytest.approx(tau, abs=1e-12)
    assert sparsek(scores, k, solver=solver).tolist() == pytest.approx(gates, abs=1e-12)


@solvers
def test_worked_example_where_the_threshold_is_an_interval(solver: Solver) -> None:
    scores = torch.tensor((5, 4.5, 1, 0.2), dtype=torch.float64)
    assert 1 <= float(threshold(scores, 2, solver=solver)) <= 3.5
    assert sparsek(scores, 2, solver=solver).tolist() == [1, 1, 0, 0]


def test_worked_vector_jacobian_product() -> None:
    gates = sparsek(torch.tensor(WORKED, dtype=torch.float64), 2)
    found = jacobian_product(gates, torch.tensor((1, -2, 3, 0.5, 7), dtype=torch.float64))
    assert found.tolist() == pytest.approx((0, -2.5, 2.5, 0, 0), abs=1e-12)


@solvers
def test_optimality_conditions_hold(solver: Solver) -> None:
    worst = max(kkt_residual(z, sparsek(z, k, solver=solver), k) for z, k in rows(3000))
    assert worst < 3.1e-13


@solvers
def test_threshold_is_the_root_that_brentq_finds(solver: Solver) -> None:
    for scores, k in rows(600, seed=1):

        def mass(tau: float, scores: Tensor = scores, k: float = k) -> float:
            return float((scores - tau).clamp(0, 1).sum()) - k

        root = brentq(mass, float(scores.min()) - 1, float(scores.max()), xtol=1e-15, rtol=1e-15)
        want = gates_from_threshold(scores, torch.tensor(root, dtype=torch.float64))
        assert float((sparsek(scores, k, solver=solver) - want).abs().max()) < 2.7e-13


def test_agrees_with_a_generic_quadratic_programme() -> None:
    for scores, k in rows(40, seed=2):
        z = scores.numpy().clip(-10, 10)
        found = minimize(
            lambda p, z=z: ((p - z) ** 2).sum(),
            [k / len(z)] * len(z),
            jac=lambda p, z=z: 2 * (p - z),
            bounds=[(0, 1)] * len(z),
            constraints={"type": "eq", "fun": lambda p, k=k: p.sum() - k, "jac": lambda p: [1.0] * len(p)},
            options={"ftol": 1e-14, "maxiter": 500},
        )
        assert float((sparsek(torch.from_numpy(z), k) - torch.from_numpy(found.x)).abs().max()) < 1e-7


def test_agrees_with_alternating_projections() -> None:
    for scores, k in rows(25, seed=3):
        at = scores.clamp(-2, 2)
        want, correction = at.clone(), torch.zeros_like(at)
        for _ in range(2000):
            plane = want + (k - want.sum()) / len(at)
            box = (plane + correction).clamp(0, 1)
            correction, want = plane + correction - box, box
        assert float((sparsek(at, k) - want).abs().max()) < 1.1e-12


@solvers
@pytest.mark.parametrize("size", [1000, 8192, 131072])
def test_solvers_agree_on_long_rows(solver: Solver, size: int) -> None:
    draw = torch.Generator().manual_seed(size)
    for scale in (0.03, 1.0, 10.0):
        scores = torch.randn(size, generator=draw, dtype=torch.float64) * scale
        exact = sparsek(scores, size // 16)
        assert float((sparsek(scores, size // 16, solver=solver) - exact).abs().max()) < 9.4e-12


def test_single_precision_gates() -> None:
    scores = torch.randn(64, 8192, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    exact = sparsek(scores, 512)
    for solver in Solver:
        gates = sparsek(scores.float(), 512, solver=solver)
        assert float((gates - exact).abs().max()) < 1.7e-6
        assert float((gates.sum(-1) - 512).abs().max()) < 4.3e-4


@solvers
def test_gradients_against_finite_differences(solver: Solver) -> None:
    scores = torch.randn(6, 24, generator=torch.Generator().manual_seed(6), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: sparsek(z, 7, solver=solver), (scores,), atol=1e-6)


def test_gradients_with_hidden_entries() -> None:
    draw = torch.Generator().manual_seed(7)
    scores = torch.randn(8, 20, generator=draw, dtype=torch.float64, requires_grad=True)
    visible = torch.rand(8, 20, generator=draw) < 0.7
    assert torch.autograd.gradcheck(lambda z: sparsek(z, 5, visible=visible), (scores,), atol=1e-6)
    gates = sparsek(scores, 5, visible=visible)
    assert not bool(gates[~visible].any())
    for row in range(8):
        want = sparsek(scores[row][visible[row]], 5)
        assert torch.allclose(gates[row][visible[row]], want, atol=1e-12)


@solvers
def test_shift_invariance_and_rows_with_room(solver: Solver) -> None:
    scores = torch.tensor(WORKED, dtype=torch.float64)
    assert torch.allclose(sparsek(scores + 40, 2, solver=solver), sparsek(scores, 2, solver=solver), atol=1e-12)
    assert sparsek(scores, 5, solver=solver).tolist() == [1.0] * 5
    assert float(threshold(scores, 5, solver=solver)) == -math.inf
    nothing = sparsek(scores, 2, solver=solver, visible=torch.zeros(5, dtype=torch.bool))
    assert nothing.tolist() == [0.0] * 5


def test_k_must_be_positive() -> None:
    with pytest.raises(ValueError, match="k is 0"):
        threshold(torch.zeros(3), 0)
