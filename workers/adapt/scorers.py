"""The trainable form of an adapter: standardised features, one gain and one slope per layer and KV head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from sparsekernels.sparsek.adapter import Adapter
from sparsekernels.sparsek.scorer import Source
from torch import Tensor, nn

INITIAL_SPREAD = 3.0
"""Standard deviation of a head's scores at the start: gates near 1 on most kept keys, and many fractional ones."""


class Scorers(nn.Module):
    """u = gain · (direction · z) + slope · j with z the standardised features; always float32."""

    def __init__(self, mean: Tensor, deviation: Tensor, source: Source, head_dim: int, horizon: int) -> None:
        """`mean`, `deviation`: [layers, kv_heads, features]; `horizon`: positions over which a lead of one
        initial spread is forgotten."""
        super().__init__()
        self.source, self.head_dim = source, head_dim
        self.mean: Tensor
        self.deviation: Tensor
        self.register_buffer("mean", mean.float())
        self.register_buffer("deviation", deviation.float())
        self.direction = nn.Parameter(torch.zeros_like(mean, dtype=torch.float32))
        heads = mean.shape[:2]
        self.log_gain = nn.Parameter(torch.zeros(heads))
        self.log_slope = nn.Parameter(torch.full(heads, INITIAL_SPREAD / horizon).log())

    def forward(self, layer: int, features: Tensor) -> Tensor:
        """u [B, kv_heads, n] of `features` [B, kv_heads, n, F]."""
        z = (features - self.mean[layer][:, None]) / self.deviation[layer][:, None]
        content = (z @ self.direction[layer][:, :, None]).squeeze(-1) * self.log_gain[layer].exp()[:, None]
        positions = torch.arange(features.shape[-2], device=features.device, dtype=torch.float32)
        found: Tensor = content + self.log_slope[layer].exp()[:, None] * positions
        return found

    def to_adapter(self, model_fingerprint: str, facts: Mapping[str, Any]) -> Adapter:
        """Folds standardisation and gain into one weight; the constant that this drops changes no gate."""
        with torch.no_grad():
            weight = self.direction * self.log_gain.exp()[..., None] / self.deviation
            slope = self.log_slope.exp()
        return Adapter(
            weight=weight.cpu(),
            slope=slope.cpu(),
            source=self.source,
            head_dim=self.head_dim,
            model_fingerprint=model_fingerprint,
            facts=facts,
        )
