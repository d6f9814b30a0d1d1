"""Runs a transformers model with another attention: every layer hands q, k, v to a policy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from sparsekernels.sparsek.adapter import Adapter
from sparsekernels.sparsek.attention import Impl, sparsek_attention
from sparsekernels.sparsek.controls import Control, control_scores
from sparsekernels.sparsek.definition import Gating
from sparsekernels.sparsek.pattern import Budget, causal_pattern, strip_mask, window_mask
from sparsekernels.sparsek.scorer import Source, features
from torch import Tensor

from workers.adapt.scorers import Scorers

NAME = "frontier_sparsek"


class Policy(Protocol):
    """Attention of one layer."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """[B, heads, n, d] and [B, kv_heads, n, d] twice → [B, heads, n, d]."""
        ...


@contextmanager
def attention(model: Any, policy: Policy) -> Iterator[None]:
    """Within it, `model` attends as `policy` says. Full sequences only: no cache, no padding."""
    from transformers import AttentionInterface

    def forward(
        module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, scaling: float, **_: Any
    ) -> tuple[Tensor, None]:
        out = policy.attend(module.layer_idx, query, key, value, scaling)
        return out.transpose(1, 2).contiguous(), None

    AttentionInterface.register(NAME, forward)
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def dense(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Causal attention by torch."""
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=True)


def folded(x: Tensor) -> Tensor:
    """[B, H, n, …] → [B·H, n, …]: sequences become heads, groups stay together."""
    return x.flatten(0, 1)


class Dense:
    """Full attention: the teacher, and the top row of every table."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        return dense(q, k, v, scale)


@dataclass
class Scored:
    """SparseK with trained (or training) scorers."""

    scorers: Scorers
    budget: Budget
    gating: Gating
    impl: Impl

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        u = self.scorers(layer, features(k, v, self.scorers.source))
        return _sparse(q, k, v, u, self.budget, self.gating, self.impl, scale)


@dataclass
class Adapted:
    """SparseK with the scorers of an adapter file."""

    adapter: Adapter
    budget: Budget
    gating: Gating
    impl: Impl

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        u = self.adapter.score(layer, k, v, torch.arange(k.shape[2]))
        return _sparse(q, k, v, u, self.budget, self.gating, self.impl, scale)


@dataclass
class Controlled:
    """A control in the place of the scorers."""

    control: Control
    budget: Budget
    impl: Impl
    seed: int = 0

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        per_sequence = [
            control_scores(self.control, qs, ks, self.budget.window, scale=scale, seed=self.seed + 1000 * layer)
            for qs, ks in zip(q, k, strict=True)
        ]
        u = torch.stack(per_sequence)
        return _sparse(q, k, v, u, self.budget, Gating.STRAIGHT_THROUGH, self.impl, scale)


@dataclass
class Local:
    """Dense attention that also trains: each layer's scorers match their own layer's dense output, nothing else.

    No gradient crosses layers, so a step costs one forward of the model. Losses collect in `losses`.
    """

    scorers: Scorers
    budget: Budget
    gating: Gating
    impl: Impl
    losses: list[Tensor] = field(default_factory=list)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        target = dense(q, k, v, scale)
        with torch.enable_grad():
            u = self.scorers(layer, features(k, v, self.scorers.source))
            found = _sparse(q, k, v, u, self.budget, self.gating, self.impl, scale)
            error = (found.float() - target.float()).square().mean() / target.float().square().mean()
            self.losses.append(error.detach())
            error.backward()  # type: ignore[no-untyped-call]
        return target


@dataclass
class Collect:
    """Dense attention that hands each layer's features and log future attention mass to `sink`."""

    source: Source
    window: int
    sink: Any

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        for qs, ks, vs in zip(q, k, v, strict=True):
            target = control_scores(Control.ORACLE, qs, ks, self.window, scale=scale, seed=0)
            self.sink(layer, features(ks, vs, self.source), target)
        return dense(q, k, v, scale)


def _sparse(
    q: Tensor, k: Tensor, v: Tensor, u: Tensor, budget: Budget, gating: Gating, impl: Impl, scale: float
) -> Tensor:
    q, k, v = (folded(x).contiguous() for x in (q, k, v))
    u_rows = folded(u).contiguous()
    if gating is Gating.STRAIGHT_THROUGH and q.device.type == "cpu" and not torch.is_grad_enabled():
        out = _masked(q, k, v, u_rows, budget, scale)
    else:
        out = sparsek_attention(q, k, v, u_rows, budget, gating, impl=impl, scale=scale)
    return out.view(u.shape[0], -1, *out.shape[1:])


def _masked(q: Tensor, k: Tensor, v: Tensor, u: Tensor, budget: Budget, scale: float) -> Tensor:
    """The same forward under straight-through gating by one masked call: quicker than blocks for short windows."""
    rows = torch.arange(q.shape[1])
    mask = strip_mask(causal_pattern(u, budget).ends, budget.window, rows) | window_mask(len(rows), budget.window, rows)
    wide = mask.repeat_interleave(len(q) // len(k), 0)
    attend = torch.nn.functional.scaled_dot_product_attention
    return attend(q[None], k[None], v[None], attn_mask=wide[None], scale=scale, enable_gqa=True)[0]
