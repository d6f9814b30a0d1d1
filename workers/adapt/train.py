"""Scorer-only training with a frozen backbone, with checkpoints that a later run continues from."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
from sparsekernels.sparsek.attention import Impl
from sparsekernels.sparsek.definition import Gating
from sparsekernels.sparsek.pattern import Budget
from torch import Tensor

from workers.adapt.attend import Dense, Local, Scored, attention
from workers.adapt.scorers import Scorers

LOGIT_ROWS = 2048
"""Rows whose logits are held at once in end-to-end training."""


class Objective(StrEnum):
    """What the scorers learn from."""

    LOCAL = "local"
    """Each layer matches its own dense output (relative squared error). One forward a step: for a CPU."""
    END_TO_END = "end_to_end"
    """Cross-entropy of the next token plus KL to the dense model's logits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that decides the trained numbers, besides model and data."""

    budget: Budget
    gating: Gating = Gating.STRAIGHT_THROUGH
    objective: Objective = Objective.LOCAL
    steps: int
    batch: int = 1
    learning_rate: float = 3e-3
    kl_weight: float = 1.0
    seed: int = 0
    impl: Impl = Impl.TORCH


def train(
    model: Any,
    scorers: Scorers,
    windows: Tensor,
    recipe: Recipe,
    *,
    checkpoint: Path,
    save_every: int = 20,
    progress: Callable[[int, float], None] = lambda step, loss: None,
) -> list[float]:
    """Trains `scorers` in place on `windows` [N, n]; returns the loss of every step, also of those before a resume."""
    model.requires_grad_(False)
    optimizer = torch.optim.AdamW(scorers.parameters(), lr=recipe.learning_rate, weight_decay=0.0)
    losses = _resume(checkpoint, scorers, optimizer, recipe)
    for step in range(len(losses), recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * _schedule(step, recipe.steps)
        optimizer.zero_grad(set_to_none=True)
        rows = batch_of_step(windows, step, recipe.batch, recipe.seed)
        losses.append(_step(model, scorers, rows.to(model.device), recipe))
        torch.nn.utils.clip_grad_norm_(scorers.parameters(), 1.0)
        optimizer.step()
        progress(step + 1, losses[-1])
        if (step + 1) % save_every == 0 or step + 1 == recipe.steps:
            _save(checkpoint, scorers, optimizer, recipe, losses)
    return losses


def _schedule(step: int, steps: int) -> float:
    """Linear over the first tenth, then linear down to a tenth."""
    warm = max(1, steps // 10)
    return min(1.0, (step + 1) / warm) * (1.0 - 0.9 * step / max(1, steps))


def batch_of_step(windows: Tensor, step: int, batch: int, seed: int) -> Tensor:
    """The `batch` rows of `windows` for a step: epochs in an order drawn from the seed, the same after a resume."""
    picks = []
    for at in range(step * batch, (step + 1) * batch):
        draw = torch.Generator().manual_seed(seed * 100_003 + at // len(windows))
        picks.append(int(torch.randperm(len(windows), generator=draw)[at % len(windows)]))
    return windows[picks]


def _step(model: Any, scorers: Scorers, ids: Tensor, recipe: Recipe) -> float:
    if recipe.objective is Objective.LOCAL:
        policy = Local(scorers, recipe.budget, recipe.gating, recipe.impl)
        with torch.no_grad(), attention(model, policy):
            model.model(input_ids=ids, use_cache=False)
        return float(torch.stack(policy.losses).mean())
    return _distill(model, scorers, ids, recipe)


def _distill(model: Any, scorers: Scorers, ids: Tensor, recipe: Recipe) -> float:
    """One end-to-end step. Logits exist for LOGIT_ROWS rows at a time: a long window's would not fit a device."""
    with torch.no_grad(), attention(model, Dense()):
        teacher = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1].flatten(0, 1)
    with attention(model, Scored(scorers, recipe.budget, recipe.gating, recipe.impl)):
        states = model.model(input_ids=ids, use_cache=False).last_hidden_state
    student = states.detach()[:, :-1].flatten(0, 1).requires_grad_()
    following, total = ids[:, 1:].flatten().long(), 0.0
    for mine, its, tokens in zip(*(x.split(LOGIT_ROWS) for x in (student, teacher, following)), strict=True):
        with torch.no_grad():
            target = model.lm_head(its)
        loss = distillation_loss(model.lm_head(mine), target, tokens, recipe.kl_weight) / len(following)
        loss.backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    assert student.grad is not None
    states[:, :-1].backward(student.grad.view_as(states[:, :-1]))  # type: ignore[no-untyped-call]
    return total


def distillation_loss(logits: Tensor, teacher: Tensor, tokens: Tensor, kl_weight: float) -> Tensor:
    """Sum over rows of next-token cross-entropy plus `kl_weight` · KL(teacher ‖ student), nats.

    `logits` and `teacher` [rows, vocabulary], `tokens` [rows]: what follows each row.
    """
    log_probs, target = logits.float().log_softmax(-1), teacher.float().log_softmax(-1)
    entropy = torch.nn.functional.nll_loss(log_probs, tokens, reduction="sum")
    return entropy + kl_weight * (target.exp() * (target - log_probs)).sum()


def _save(path: Path, scorers: Scorers, optimizer: Any, recipe: Recipe, losses: list[float]) -> None:
    part = path.with_suffix(".part")
    state = {"scorers": scorers.state_dict(), "optimizer": optimizer.state_dict(), "recipe": str(recipe)}
    torch.save({**state, "losses": losses}, part)
    os.replace(part, path)


def _resume(path: Path, scorers: Scorers, optimizer: Any, recipe: Recipe) -> list[float]:
    """Losses so far from a checkpoint of the same recipe; [] without one."""
    if not path.exists():
        return []
    state = torch.load(path, map_location=scorers.direction.device, weights_only=True)
    if state["recipe"] != str(recipe):
        raise ValueError(f"{path} belongs to another recipe; remove it or choose another output folder")
    scorers.load_state_dict(state["scorers"])
    optimizer.load_state_dict(state["optimizer"])
    return [float(x) for x in state["losses"]]
