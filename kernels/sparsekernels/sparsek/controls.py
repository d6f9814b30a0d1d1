"""Scores that cost no training, for comparisons at an equal number of cache slots.

Each control fills the same slots as a trained scorer; only the ranking of the older keys differs.
"""

from __future__ import annotations

from enum import StrEnum

import torch
from torch import Tensor

from sparsekernels.sparsek.pattern import Budget

DEFAULT_SINKS = 4


class Control(StrEnum):
    """What older keys are ranked by."""

    WINDOW = "window"
    """Nothing older is kept: all slots are window."""
    WINDOW_SINKS = "window_sinks"
    """Window and the first 4 positions."""
    RANDOM = "random"
    KEY_NORM = "key_norm"
    """−|k|: keys of small norm draw much attention (arXiv 2406.11430)."""
    VOTES = "votes"
    """Attention received while in the window: SnapKV's vote, cast online when the key leaves the window."""
    ORACLE = "oracle"
    """Attention that the dense model pays the key after it left the window. Looks ahead: a ceiling, no method."""


def split_slots(slots: int, *, sinks: int = DEFAULT_SINKS, window: int | None = None) -> Budget:
    """Slots of a scored method: `sinks`, a window (half of the slots when None), and the rest kept by score."""
    near = slots // 2 if window is None else window
    if slots - near - sinks < 1:
        raise ValueError(f"{slots} slots leave nothing to keep beside {sinks} sinks and a window of {near}")
    return Budget(window=near, kept=slots - near - sinks, sinks=sinks)


def control_budget(control: Control, slots: int, scored: Budget) -> Budget:
    """How `control` spends `slots`; the ranked ones spend them as `scored` does."""
    if control is Control.WINDOW:
        return Budget(window=slots, kept=0)
    if control is Control.WINDOW_SINKS:
        return Budget(window=slots - DEFAULT_SINKS, kept=0, sinks=DEFAULT_SINKS)
    return scored


def control_scores(control: Control, q: Tensor, k: Tensor, window: int, *, scale: float, seed: int) -> Tensor:
    """Scores [kv_heads, n] of `q` [heads, n, d] and `k` [kv_heads, n, d]; quadratic for votes and oracle."""
    if control is Control.RANDOM:
        draw = torch.Generator().manual_seed(seed)
        return torch.randn(k.shape[:2], generator=draw).to(k.device)
    if control is Control.KEY_NORM:
        return -k.float().square().sum(-1).sqrt()
    if control in (Control.VOTES, Control.ORACLE):
        inside, beyond = attention_mass(q, k, window, scale=scale)
        return (inside if control is Control.VOTES else beyond).log()
    return torch.zeros(k.shape[:2], device=k.device)


def attention_mass(q: Tensor, k: Tensor, window: int, *, scale: float) -> tuple[Tensor, Tensor]:
    """Dense attention that each key gets from rows inside its window, and from later rows; float32 [kv_heads, n].

    In units of the uniform share 1/(i + 1), so that early rows, which have few keys, do not count more.
    Mean over a KV head's query heads and over the rows; a floor of 1e-6 keeps logarithms finite.
    """
    kv_heads, n = k.shape[:2]
    grouped = q.float().reshape(kv_heads, -1, n, q.shape[-1])
    rows = torch.arange(n, device=q.device)
    distance = rows[:, None] - rows
    inside, beyond = (torch.zeros(kv_heads, n, device=q.device) for _ in range(2))
    for head in range(kv_heads):
        logits = grouped[head] @ k[head].float().T * scale
        shares = logits.masked_fill(distance < 0, -torch.inf).softmax(-1).mean(0) * (rows[:, None] + 1)
        inside[head] = torch.where(distance < window, shares, 0.0).sum(0)
        beyond[head] = torch.where(distance >= window, shares, 0.0).sum(0)
    later = (n - window - rows).clamp(min=1)
    return inside / (n - rows).clamp(max=window) + 1e-6, beyond / later + 1e-6
