"""Held-out loss of the trained scorers beside dense attention and the controls, at an equal number of slots."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import fmean, stdev
from typing import Any, NamedTuple

import torch
from sparsekernels.sparsek.adapter import Adapter
from sparsekernels.sparsek.attention import Impl
from sparsekernels.sparsek.controls import Control, control_budget
from sparsekernels.sparsek.definition import Gating
from sparsekernels.sparsek.pattern import Budget
from torch import Tensor

from workers.adapt.attend import Adapted, Controlled, Dense, Policy, Scored, attention
from workers.adapt.scorers import Scorers


class Difference(NamedTuple):
    """A paired difference of losses over the same windows, nats a token."""

    mean: float
    standard_error: float
    """Of the mean; 0 for a single window."""


class HeldOut(NamedTuple):
    """One row of the table."""

    name: str
    slots: int
    """Cache slots per KV head; the whole length for dense."""
    losses: tuple[float, ...]
    """One a window: nats a token over rows beyond the slots, where all methods drop something."""

    @property
    def loss(self) -> float:
        return fmean(self.losses)

    @property
    def perplexity(self) -> float:
        return math.exp(self.loss)

    def over(self, other: HeldOut) -> Difference:
        """How much more this row loses than `other`."""
        differences = [mine - its for mine, its in zip(self.losses, other.losses, strict=True)]
        error = stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else 0.0
        return Difference(fmean(differences), error)


def evaluate(
    model: Any,
    trained: Scorers | Adapter,
    windows: Tensor,
    budget: Budget,
    gating: Gating,
    *,
    impl: Impl,
    seed: int = 0,
    batch: int = 1,
    progress: Callable[[str], None] = lambda name: None,
) -> list[HeldOut]:
    """Losses on `windows` [N, n] of dense, SparseK and every control."""
    policy: Policy
    if isinstance(trained, Adapter):
        policy = Adapted(trained, budget, gating, impl)
    else:
        policy = Scored(trained, budget, gating, impl)
    policies: dict[str, Policy] = {"dense": Dense(), "sparsek": policy}
    for control in Control:
        policies[str(control)] = Controlled(control, control_budget(control, budget.slots, budget), impl, seed)
    rows = []
    for name, policy in policies.items():
        rows.append(held_out_row(model, name, policy, windows, budget, batch=batch))
        progress(name)
    return rows


def held_out_row(model: Any, name: str, policy: Policy, windows: Tensor, budget: Budget, *, batch: int = 1) -> HeldOut:
    """One row: `model` under `policy` on `windows` [N, n]."""
    losses = window_losses(model, policy, windows, first_row=budget.slots, batch=batch)
    slots = windows.shape[1] if isinstance(policy, Dense) else budget.slots
    return HeldOut(name, slots, tuple(losses.tolist()))


def window_losses(model: Any, policy: Policy, windows: Tensor, *, first_row: int, batch: int = 1) -> Tensor:
    """Mean loss of each window over the tokens predicted by rows ≥ `first_row`, float64 [N]."""
    found: list[Tensor] = []
    with torch.no_grad(), attention(model, policy):
        for rows in torch.split(windows, batch):
            ids = rows.to(model.device).long()
            states = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, first_row:-1]
            for state, row in zip(states, ids, strict=True):
                logits = model.lm_head(state).float()
                found.append(torch.nn.functional.cross_entropy(logits, row[first_row + 1 :]).double().cpu())
    return torch.stack(found)
