"""The SparseK operator: Euclidean projection on the capped simplex, with its closed-form Jacobian (arXiv 2406.16747).

    sparsek(z, k) = argmin over p of |p − z|², 0 ≤ p_j ≤ 1, Σ p_j = k  =  clip(z − τ, 0, 1)

One threshold τ solves f(τ) = Σ clip(z_j − τ, 0, 1) = k. Three solvers find it: `sort` (exact, the
reference), `bisection` (fixed shape, for devices) and `newton` (guarded). With at most k visible
entries the projection is all ones and τ is −inf by convention, without gradient.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import torch
from torch import Tensor


class Solver(StrEnum):
    """How the threshold is found. All three agree to rounding."""

    SORT = "sort"
    BISECTION = "bisection"
    NEWTON = "newton"


def sparsek(scores: Tensor, k: float, *, solver: Solver = Solver.SORT, visible: Tensor | None = None) -> Tensor:
    """Gates in [0, 1] that sum to `k` along the last dimension; differentiable in `scores`.

    Args:
        scores: [..., m], float32 or float64.
        k: how much gate mass a row has, > 0; need not be an integer.
        visible: bool, broadcastable to `scores`; hidden entries have gate 0. None: all are visible.
    """
    scores, shown = _with_visible(scores, visible)
    gates: Tensor = _SparseK.apply(scores, k, solver, shown)  # type: ignore[no-untyped-call]
    return gates


def threshold(scores: Tensor, k: float, *, solver: Solver = Solver.SORT, visible: Tensor | None = None) -> Tensor:
    """τ of every row, [...]; −inf where at most `k` entries are visible. Not differentiable.

    Where the solution is an interval (gates are exactly the hard top-k), some point of it is returned.
    """
    if k <= 0:
        raise ValueError(f"k is {k}; it must be positive")
    scores, shown = _with_visible(scores, visible)
    count = shown.sum(-1)
    largest = scores.masked_fill(~shown, -torch.inf).amax(-1, keepdim=True)
    largest = torch.where(count[..., None] > 0, largest, torch.zeros_like(largest))
    shifted = (scores - largest).masked_fill(~shown, 0.0)
    smallest = shifted.amin(-1, keepdim=True)
    shifted = torch.where(shown, shifted, smallest - 3.0)
    solve = {Solver.SORT: _sort, Solver.BISECTION: bisect, Solver.NEWTON: _newton}[solver]
    tau = solve(shifted, k, smallest.squeeze(-1)) + largest.squeeze(-1)
    return torch.where(count > k, tau, torch.full_like(tau, -torch.inf))


def gates_from_threshold(scores: Tensor, tau: Tensor, visible: Tensor | None = None) -> Tensor:
    """clip(scores − τ, 0, 1), and 0 where hidden. `scores` [..., m], `tau` [...]."""
    gates = (scores - tau[..., None]).clamp(0.0, 1.0)
    return gates if visible is None else torch.where(visible, gates, torch.zeros_like(gates))


def jacobian_product(gates: Tensor, grad: Tensor) -> Tensor:
    """Gradient of the scores from the gradient of the gates: s ⊙ (g − mean of g over s), s = {0 < p < 1}."""
    fractional = ((gates > 0) & (gates < 1)).to(grad.dtype)
    mean = (grad * fractional).sum(-1, keepdim=True) / fractional.sum(-1, keepdim=True).clamp(min=1)
    return fractional * (grad - mean)


def _with_visible(scores: Tensor, visible: Tensor | None) -> tuple[Tensor, Tensor]:
    if visible is None:
        return scores, torch.ones_like(scores, dtype=torch.bool)
    shape = torch.broadcast_shapes(scores.shape, visible.shape)  # type: ignore[no-untyped-call]
    return scores.expand(shape), visible.expand(shape)


class _SparseK(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, k: float, solver: Solver, visible: Tensor) -> Tensor:
        tau = threshold(scores, k, solver=solver, visible=visible)
        gates = gates_from_threshold(scores, tau, visible)
        ctx.save_for_backward(gates)
        return gates

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (gates,) = ctx.saved_tensors
        return jacobian_product(gates, grads[0]), None, None, None


def _mass(shifted: Tensor, tau: Tensor) -> Tensor:
    return (shifted - tau[..., None]).clamp(0.0, 1.0).sum(-1)


def _closed_form(shifted: Tensor, k: float, tau: Tensor, lo: Tensor, hi: Tensor) -> Tensor:
    """τ solved exactly for the partition that `tau` cuts, kept inside [lo, hi]; `tau` itself where nothing is cut."""
    distance = shifted - tau[..., None]
    saturated, positive = distance >= 1, distance > 0
    fractional = positive & ~saturated
    count = fractional.sum(-1)
    total = torch.where(fractional, shifted, torch.zeros_like(shifted)).sum(-1)
    solved = (total + saturated.sum(-1) - k) / count.clamp(min=1)
    return torch.where(count > 0, solved.clamp(lo, hi), tau)


def _sort(shifted: Tensor, k: float, smallest: Tensor) -> Tensor:
    """f at all 2m breakpoints from prefix sums, then the closed form in the segment where f crosses k. O(m log m)."""
    ascending = shifted.sort(-1).values.contiguous()
    prefix = torch.nn.functional.pad(ascending.cumsum(-1), (1, 0))
    breaks = torch.cat((ascending, ascending - 1.0), -1).sort(-1, descending=True).values.contiguous()
    above = torch.searchsorted(ascending, breaks, right=True)
    capped = torch.searchsorted(ascending, breaks + 1.0)
    m = shifted.shape[-1]
    middle = prefix.gather(-1, capped) - prefix.gather(-1, above)
    mass = (m - capped) + middle - (capped - above) * breaks
    crossing = (mass.cummax(-1).values < k).sum(-1, keepdim=True).clamp(1, 2 * m - 1)
    lo, hi = breaks.gather(-1, crossing), breaks.gather(-1, crossing - 1)
    inside = ((lo + hi) / 2).squeeze(-1)
    return _closed_form(shifted, k, inside, lo.squeeze(-1), hi.squeeze(-1)).clamp(min=smallest - 1.0)


def bisect(shifted: Tensor, k: float, smallest: Tensor, iterations: int | None = None) -> Tensor:
    """Fixed number of halvings, then one closed-form step. O(m · iterations), fixed shapes.

    Args:
        shifted: [..., m] scores with maximum 0; hidden entries at least 2 below `smallest`.
        smallest: [...] least visible score.
        iterations: halvings; None: 24 in float32, 48 in float64.
    """
    halvings = iterations or (48 if shifted.dtype == torch.float64 else 24)
    lo, hi = smallest - 1.0, torch.zeros_like(smallest)
    for _ in range(halvings):
        middle = (lo + hi) / 2
        enough = _mass(shifted, middle) >= k
        lo, hi = torch.where(enough, middle, lo), torch.where(enough, hi, middle)
    return _closed_form(shifted, k, (lo + hi) / 2, lo, hi)


def _newton(shifted: Tensor, k: float, smallest: Tensor) -> Tensor:
    """Newton steps kept strictly inside a shrinking bracket, else a halving.

    A row is done when a Newton step leaves the partition as it was (then it is exact), or f = k.
    """
    lo, hi = smallest - 1.0, torch.zeros_like(smallest)
    shown = shifted >= smallest[..., None]
    count = shown.sum(-1)
    tau = (torch.where(shown, shifted, torch.zeros_like(shifted)).sum(-1) - k) / count.clamp(min=1)
    tau = torch.where((tau > lo) & (tau < hi), tau, (lo + hi) / 2)
    done = torch.zeros_like(tau, dtype=torch.bool)
    for _ in range(200):
        mass, slope = _mass(shifted, tau), _num_fractional(shifted, tau)
        enough = mass >= k
        lo, hi = torch.where(enough, tau, lo), torch.where(enough, hi, tau)
        stepped = tau + (mass - k) / slope.clamp(min=1)
        good = (slope > 0) & (stepped > lo) & (stepped < hi)
        following = torch.where(good, stepped, (lo + hi) / 2)
        same = good & _same_partition(shifted, tau, following)
        done = done | (mass == k)
        tau = torch.where(done, tau, following)
        done = done | same
        if bool(done.all()):
            break
    return _closed_form(shifted, k, tau, smallest - 1.0, torch.zeros_like(tau))


def _num_fractional(shifted: Tensor, tau: Tensor) -> Tensor:
    distance = shifted - tau[..., None]
    return ((distance > 0) & (distance < 1)).sum(-1)


def _same_partition(shifted: Tensor, first: Tensor, second: Tensor) -> Tensor:
    one, two = shifted - first[..., None], shifted - second[..., None]
    return (((one > 0) == (two > 0)) & ((one >= 1) == (two >= 1))).all(-1)
