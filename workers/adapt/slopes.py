"""Chooses each head's slope: how fast an old key's lead fades. Gradients move a slope slowly, a search does not.

A steep slope keeps just the most recent keys, so the search includes a plain window as its limit: on the
windows that it sees, a head never captures less attention than a window of the same slots.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from sparsekernels.sparsek.adapter import Adapter
from sparsekernels.sparsek.attention import Impl, pattern_of
from sparsekernels.sparsek.pattern import Budget, strip_mask, window_mask
from torch import Tensor

from workers.adapt.attend import attention, dense

HORIZONS = (64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 16384.0)
"""Positions over which a lead of one standard deviation of a head's scores is lost."""


@dataclass
class Captured:
    """Policy: dense attention that adds up the attention that each slope's kept set would have captured."""

    adapter: Adapter
    budget: Budget
    spread: Tensor
    """[layers, kv_heads] standard deviation of the scores without slope."""
    impl: Impl = Impl.TORCH
    """What finds the end rows."""
    mass: Tensor = field(init=False)
    """[layers, kv_heads, horizons]"""

    def __post_init__(self) -> None:
        self.mass = torch.zeros(*self.spread.shape, len(HORIZONS), dtype=torch.float64)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        positions = torch.arange(k.shape[2])
        for qs, ks, vs in zip(q, k, v, strict=True):
            weights = _weights(qs, ks, scale)[:, self.budget.slots :]
            content = self.adapter.score(layer, ks, vs, torch.zeros_like(positions))
            for number, horizon in enumerate(HORIZONS):
                slope = self.spread[layer].to(content.device) / horizon
                scores = content + slope[:, None] * positions.to(content.device)
                seen = _seen(scores, self.budget, self.impl)[:, self.budget.slots :]
                self.mass[layer, :, number] += (weights * seen).sum((1, 2)).double().cpu()
        return dense(q, k, v, scale)


@dataclass
class Spread:
    """Policy: dense attention that measures the spread of a head's scores without slope."""

    adapter: Adapter
    squares: Tensor = field(init=False)
    count: int = 0

    def __post_init__(self) -> None:
        self.squares = torch.zeros(self.adapter.slope.shape, dtype=torch.float64)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        content = self.adapter.score(layer, k, v, torch.zeros(k.shape[2]))
        self.squares[layer] += content.double().var(-1).sum(0).cpu()
        self.count += len(k) if layer == 0 else 0
        return dense(q, k, v, scale)


def choose_slopes(model: Any, adapter: Adapter, windows: Tensor, budget: Budget, *, impl: Impl = Impl.TORCH) -> Adapter:
    """The adapter with, for each head, the slope that captures most attention in dense passes over `windows`."""
    spread = Spread(adapter)
    _run(model, spread, windows[:1])
    deviation = (spread.squares / spread.count).sqrt().float()
    captured = Captured(adapter, budget, deviation, impl)
    _run(model, captured, windows)
    best = torch.tensor(HORIZONS)[captured.mass.argmax(-1)]
    return Adapter(
        weight=adapter.weight,
        slope=deviation / best,
        source=adapter.source,
        head_dim=adapter.head_dim,
        model_fingerprint=adapter.model_fingerprint,
        facts={**adapter.facts, "slopes_for": str(budget), "slope_windows": len(windows)},
    )


def _run(model: Any, policy: Any, windows: Tensor) -> None:
    with torch.no_grad(), attention(model, policy):
        for row in windows:
            model.model(input_ids=row[None].to(model.device), use_cache=False)


def _weights(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """Dense attention [kv_heads, n, n], mean over a group."""
    kv_heads, n = k.shape[:2]
    causal = torch.ones(n, n, dtype=torch.bool, device=q.device).tril()
    grouped = q.float().reshape(kv_heads, -1, n, q.shape[-1])
    logits = grouped @ k.float()[:, None].mT * scale
    return logits.masked_fill(~causal, -torch.inf).softmax(-1).mean(1)


def _seen(scores: Tensor, budget: Budget, impl: Impl) -> Tensor:
    """bool [kv_heads, n, n]: what each row reads."""
    rows = torch.arange(scores.shape[1], device=scores.device)
    strips = strip_mask(pattern_of(scores, budget, impl).ends, budget.window, rows)
    return strips | window_mask(len(rows), budget.window, rows)
