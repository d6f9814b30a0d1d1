"""The one ruler for every kernel: exact masked attention in float64, and what plain low-precision torch makes of it."""

from __future__ import annotations

import torch
from torch import Tensor


def masked_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float | None = None) -> Tensor:
    """Attention of q [T, Hq, D] over k, v [L, Hkv, D] under a bool mask [T, H, L], in float64, head by head.

    H is 1, Hkv or Hq. A row that sees nothing is zero.
    """
    return _attention(q, k, v, mask, scale, torch.float64)


def plain_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float | None = None) -> Tensor:
    """The same in the inputs' dtype with a float32 softmax, as eager torch does it: the yardstick of rounding."""
    return _attention(q, k, v, mask, scale, q.dtype)


def _attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float | None, dtype: torch.dtype) -> Tensor:
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    group, per_mask = q.shape[1] // k.shape[1], q.shape[1] // mask.shape[1]
    out = torch.zeros(q.shape, dtype=dtype, device=q.device)
    soft = torch.float64 if dtype == torch.float64 else torch.float32
    for head in range(q.shape[1]):
        scores = (q[:, head].to(dtype) @ k[:, head // group].to(dtype).T) * scale
        scores = scores.to(soft).masked_fill(~mask[:, head // per_mask], -float("inf"))
        weights = scores.softmax(-1).nan_to_num(0.0).to(dtype)
        out[:, head] = weights @ v[:, head // group].to(dtype)
    return out


def relative_error(value: Tensor, exact: Tensor) -> float:
    """Root mean square of the difference over that of `exact`; infinite when value holds a NaN."""
    error = (value.double() - exact.double()).square().mean().sqrt() / exact.double().square().mean().sqrt()
    return float("inf") if bool(value.isnan().any()) else float(error)


def assert_parity(value: Tensor, exact: Tensor, plain: Tensor, factor: float = 2.0) -> None:
    """Raise AssertionError unless value's error against `exact` is at most `factor` × that of plain torch.

    Float32 arithmetic gets a floor of 1e-6: there plain torch can be luckily close.
    """
    error, allowed = relative_error(value, exact), factor * relative_error(plain, exact)
    allowed = max(allowed, 1e-6)
    if not error <= allowed:
        raise AssertionError(f"relative error {error:.3g} exceeds {allowed:.3g} ({factor} × plain torch)")
