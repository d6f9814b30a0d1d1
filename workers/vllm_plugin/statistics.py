"""Turns what a worker counted into the figures that go back to the caller, and merges tensor-parallel ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from workers.vllm_plugin.requests import RequestState


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One rank's measurements of one request; lists run over the layers in order. Empty list: dense in every layer."""

    density_prefill: tuple[float, ...]
    density_decode: float
    kv_kept: tuple[float, ...]
    num_restarts: int
    peak_tokens: int


def make_report(state: RequestState, num_decode_steps: int) -> Report:
    """Read the counters of a request. This may wait for the device: densities are kept there until then."""
    densities = {name: float(density) for name, density in state.prefill_density.items()}
    state.prefill_density.update(densities)
    return Report(
        density_prefill=tuple(densities.values()),
        density_decode=state.decode.density(num_decode_steps),
        kv_kept=tuple(k.share for k in state.kept.values()),
        num_restarts=state.num_restarts,
        peak_tokens=state.peak_tokens,
    )


def merge_reports(reports: Sequence[Mapping[str, Any] | None]) -> Report | None:
    """The mean over tensor-parallel ranks, which hold equal numbers of heads; a report travels as a mapping."""
    known = [Report(**r) for r in reports if r is not None]
    if not known:
        return None
    return Report(
        density_prefill=_mean_by_layer([r.density_prefill for r in known]),
        density_decode=fmean(r.density_decode for r in known),
        kv_kept=_mean_by_layer([r.kv_kept for r in known]),
        num_restarts=max(r.num_restarts for r in known),
        peak_tokens=max(r.peak_tokens for r in known),
    )


def _mean_by_layer(ranks: Sequence[Sequence[float]]) -> tuple[float, ...]:
    return tuple(fmean(values) for values in zip(*ranks, strict=True))
