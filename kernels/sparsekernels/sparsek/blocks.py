"""Torch forward and backward of SparseK attention, block of rows by block of rows.

A block sees a contiguous range of keys (its rows' windows) and a gathered list (older keys that some
row sees); masks make both exact row by row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from sparsekernels.sparsek.definition import Gating

if TYPE_CHECKING:
    from sparsekernels.sparsek.attention import Prepared


class Gradients(NamedTuple):
    """What a backward pass returns before the operator's Jacobian is applied."""

    dq: Tensor
    dk: Tensor
    dv: Tensor
    kept: Tensor
    """[kv_heads, n] Σ over rows of dL/dp_ij where key j is kept and fractional."""
    rows: Tensor
    """[kv_heads, n] Σ over kept fractional keys of dL/dp_ij, one value a row."""


class _Block(NamedTuple):
    rows: slice
    keys: Tensor
    """[H, L] positions, window range first."""
    seen: Tensor
    """[H, R, L] bool"""
    gates: Tensor
    """[H, R, L] used gate: 1 in the window, at sinks and under straight-through."""
    fractional: Tensor
    """[H, R, L] bool: kept, and the gate is strictly inside (0, 1)."""


def forward(q: Tensor, k: Tensor, v: Tensor, prepared: Prepared) -> tuple[Tensor, Tensor]:
    """Output [heads, n, d] and log-sum-exp of the logits [heads, n]."""
    out, lse = torch.empty_like(q), torch.empty(q.shape[:2], dtype=_wide(q), device=q.device)
    grouped, outs, lses = _grouped(q, k), _grouped(out, k), _grouped(lse, k)
    for block in _blocks(q.shape[1], prepared):
        logits = _logits(_content(grouped[:, :, block.rows], k, block, prepared.scale), block, prepared.gating)
        lses[:, :, block.rows] = logits.logsumexp(-1)
        weights = (logits - lses[:, :, block.rows, None]).exp() * block.gates[:, None]
        outs[:, :, block.rows] = (weights @ _gather(v, block.keys)[:, None].to(weights)).to(q.dtype)
    return out, lse


def backward(q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, grad: Tensor, prepared: Prepared) -> Gradients:
    """Gradients for `grad` [heads, n, d], recomputing weights from `lse`."""
    wide = _wide(q)
    dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k, dtype=wide), torch.zeros_like(v, dtype=wide)
    kept = torch.zeros(k.shape[:2], dtype=wide, device=k.device)
    rows = torch.zeros_like(kept)
    delta = _grouped((out.to(wide) * grad.to(wide)).sum(-1), k)
    group_q, group_grad, group_lse, group_dq = _grouped(q, k), _grouped(grad, k), _grouped(lse, k), _grouped(dq, k)
    for block in _blocks(q.shape[1], prepared):
        part = group_q[:, :, block.rows].to(wide)
        d_out = group_grad[:, :, block.rows].to(wide)
        keys, values, gates = _gather(k, block.keys).to(wide), _gather(v, block.keys).to(wide), block.gates[:, None]
        content = _content(part, k, block, prepared.scale)
        logits = _logits(content, block, prepared.gating)
        weights = (logits - group_lse[:, :, block.rows, None]).exp()
        products = d_out @ values[:, None].mT
        d_logits = weights * (gates * products - delta[:, :, block.rows, None])
        d_gates = weights * products
        d_content = d_logits
        if prepared.gating is not Gating.VALUES:
            d_gates = d_gates + d_logits * content
            d_content = d_logits * gates
        group_dq[:, :, block.rows] = (d_content @ keys[:, None] * prepared.scale).to(q.dtype)
        _scatter(dk, block.keys, (d_content.mT @ part * prepared.scale).sum(1))
        _scatter(dv, block.keys, ((weights * gates).mT @ d_out).sum(1))
        d_kept = torch.where(block.fractional, d_gates.sum(1), torch.zeros((), dtype=wide))
        kept.scatter_add_(1, block.keys, d_kept.sum(1))
        rows[:, block.rows] = d_kept.sum(-1)
    return Gradients(dq, dk.to(k.dtype), dv.to(v.dtype), kept, rows)


def _wide(q: Tensor) -> torch.dtype:
    return torch.float64 if q.dtype == torch.float64 else torch.float32


def _grouped(x: Tensor, k: Tensor) -> Tensor:
    """[heads, n, …] as [kv_heads, group, n, …]."""
    return x.view(k.shape[0], -1, *x.shape[1:])


def _gather(x: Tensor, keys: Tensor) -> Tensor:
    return x.gather(1, keys[..., None].expand(-1, -1, x.shape[-1]))


def _scatter(total: Tensor, keys: Tensor, part: Tensor) -> None:
    total.scatter_add_(1, keys[..., None].expand_as(part), part)


def _content(rows: Tensor, k: Tensor, block: _Block, scale: float) -> Tensor:
    """q·k · scale, [H, G, R, L], in the accumulation dtype."""
    wide = _wide(rows)
    return rows.to(wide) @ _gather(k, block.keys)[:, None].to(wide).mT * scale


def _logits(content: Tensor, block: _Block, gating: Gating) -> Tensor:
    logits = content if gating is Gating.VALUES else content * block.gates[:, None]
    return logits.masked_fill(~block.seen[:, None], -torch.inf)


def _blocks(n: int, prepared: Prepared) -> Iterator[_Block]:
    size = prepared.lists.row_block
    for number in range(-(-n // size)):
        yield _block(number, slice(number * size, min(n, number * size + size)), prepared)


def _block(number: int, rows: slice, prepared: Prepared) -> _Block:
    scores, pattern, window = prepared.scores, prepared.pattern, prepared.budget.window
    listed, real = prepared.lists.of_block(number)
    near = torch.arange(max(0, rows.start - window + 1), rows.stop, device=scores.device)
    keys = torch.cat((near.expand(len(scores), -1), listed), 1)
    at = torch.arange(rows.start, rows.stop, device=scores.device)
    distance = at[:, None] - keys[:, None]
    is_near = torch.arange(keys.shape[1], device=scores.device) < len(near)
    in_window = is_near & (distance >= 0) & (distance < window)
    ends = pattern.ends.gather(1, keys)[:, None]
    is_listed = torch.cat((torch.zeros_like(near, dtype=torch.bool).expand(len(scores), -1), real), 1)[:, None]
    strip = is_listed & (distance >= window) & (at[:, None] < ends)
    u, tau = scores.gather(1, keys)[:, None], pattern.thresholds[:, rows, None]
    gates = (u - tau).clamp(0.0, 1.0)
    # Rounded as in `attention.score_gradient`: 0 < u − τ < 1 can differ from it in the last bit.
    fractional = strip & (tau < u) & (tau > u - 1)
    plain = ~strip | (prepared.gating is Gating.STRAIGHT_THROUGH)
    return _Block(rows, keys, in_window | strip, torch.where(plain, torch.ones_like(gates), gates), fractional)
