"""Ridge regression of log future attention mass on the scorers' features: a start close to the oracle."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from sparsekernels.sparsek.scorer import Source
from torch import Tensor

from workers.adapt.attend import Collect, attention
from workers.adapt.scorers import INITIAL_SPREAD, Scorers


class ModelShape(NamedTuple):
    layers: int
    kv_heads: int
    head_dim: int


def shape_of(config: Any) -> ModelShape:
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return ModelShape(config.num_hidden_layers, config.num_key_value_heads, head_dim)


class WarmStart(NamedTuple):
    scorers: Scorers
    explained: Tensor
    """[layers, kv_heads] share of the targets' variance that the fit explains on its own data (R²)."""


class _Sums:
    """Moments of features and targets per layer and KV head, float64."""

    def __init__(self, shape: ModelShape, num_features: int, device: torch.device) -> None:
        heads = (shape.layers, shape.kv_heads)
        self.count = 0
        self.x = torch.zeros(*heads, num_features, dtype=torch.float64, device=device)
        self.xx = torch.zeros(*heads, num_features, num_features, dtype=torch.float64, device=device)
        self.xy = torch.zeros_like(self.x)
        self.y = torch.zeros(heads, dtype=torch.float64, device=device)
        self.yy = torch.zeros_like(self.y)

    def add(self, layer: int, x: Tensor, y: Tensor) -> None:
        x, y = x.double(), y.double()
        self.x[layer] += x.sum(1)
        self.xx[layer] += x.mT @ x
        self.xy[layer] += (x * y[..., None]).sum(1)
        self.y[layer] += y.sum(1)
        self.yy[layer] += y.square().sum(1)
        self.count += x.shape[1] if layer == 0 else 0


def warm_start(
    model: Any, windows: Tensor, source: Source, *, window: int, sinks: int, ridge: float = 1e-2
) -> WarmStart:
    """Scorers fitted on dense passes over `windows` [B, n]; a head's scores start with spread INITIAL_SPREAD."""
    shape = shape_of(model.config)
    sums = _Sums(shape, source.num_features(shape.head_dim), model.device)
    # Targets near the end average few rows, and sinks are kept anyway: leave both out.
    usable = slice(sinks, windows.shape[1] - window - min(64, windows.shape[1] // 8))

    def sink(layer: int, x: Tensor, y: Tensor) -> None:
        sums.add(layer, x[:, usable], y[:, usable])

    with torch.no_grad(), attention(model, Collect(source, window, sink)):
        for row in windows:
            model.model(input_ids=row[None].to(model.device), use_cache=False)
    return _fit(sums, shape, source, ridge, horizon=4 * windows.shape[1])


def _fit(sums: _Sums, shape: ModelShape, source: Source, ridge: float, horizon: int) -> WarmStart:
    n = sums.count
    mean, y_mean = sums.x / n, sums.y / n
    cross = sums.xx / n - mean[..., :, None] * mean[..., None, :]
    deviation = cross.diagonal(dim1=-2, dim2=-1).clamp(min=1e-12).sqrt()
    correlation = cross / (deviation[..., :, None] * deviation[..., None, :])
    target = (sums.xy / n - mean * y_mean[..., None]) / deviation
    eye = torch.eye(target.shape[-1], dtype=torch.float64, device=target.device)
    direction = torch.linalg.solve(correlation + ridge * eye, target)
    spread = (direction[..., None, :] @ correlation @ direction[..., None]).squeeze().clamp(min=1e-12).sqrt()
    y_variance = (sums.yy / n - y_mean.square()).clamp(min=1e-12)
    residual = y_variance - 2 * (direction * target).sum(-1) + spread.reshape(y_variance.shape).square()
    scorers = Scorers(mean, deviation, source, shape.head_dim, horizon).to(mean.device)
    with torch.no_grad():
        scorers.direction.copy_(direction / spread.reshape(y_variance.shape)[..., None])
        scorers.log_gain.fill_(torch.tensor(INITIAL_SPREAD).log())
    return WarmStart(scorers, (1 - residual / y_variance).float())
