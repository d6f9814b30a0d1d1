"""When will a campaign be done? From the work left, corrected by its own record, with an interval."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import exp

from orchestrator.domain.cost_correction import Correction, Effect, Kind, Observation, learn

Z_90 = 1.645
"""Half width of a 90 % interval in standard deviations."""
LEAST_LEFT = 0.02
"""Of the work left, whatever has begun of it."""
DEFAULT_USE = 0.95
"""Share of GPU time that is useful work before a campaign has shown its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkLeft:
    """Samples of one kind that have no outcome yet."""

    kind: Kind
    num_samples: int
    predicted_seconds: float
    """Of one engine for all of them, uncorrected."""
    gpus: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Eta:
    """Seconds of wall clock until the end, with a 90 % interval."""

    seconds: float
    low_seconds: float
    high_seconds: float
    gpu_hours_left: float


def rough_seconds(length_tokens: int, max_output_tokens: int) -> float:
    """Of a sample, in a unit of its own, before anything is known of model and machine.

    A hundred tokens of output count like a thousand of prompt. The record corrects the rest; every length is tried
    early for that (`ordering`).
    """
    return length_tokens / 1000 + max_output_tokens / 100


def estimate(
    left: Iterable[WorkLeft],
    observations: Sequence[Observation],
    *,
    num_gpus: float,
    use: float = DEFAULT_USE,
    begun_seconds: float = 0.0,
) -> Eta:
    """The estimate for `num_gpus` GPUs of which the share `use` does useful work (the campaign's own, once known).

    `begun_seconds`: what the samples in flight, which `left` counts whole, have had already.
    """
    correction = learn(observations)
    work = [(item, correction.factor(item.kind) * item.predicted_seconds * item.gpus) for item in left]
    seconds = sum(corrected for _, corrected in work)
    if seconds <= 0:
        return Eta(seconds=0.0, low_seconds=0.0, high_seconds=0.0, gpu_hours_left=0.0)
    sigma = _relative_sigma(work, correction) * Z_90
    seconds = max(seconds - begun_seconds, seconds * LEAST_LEFT)
    wall = seconds / max(num_gpus * use, 1e-9)
    return Eta(
        seconds=wall, low_seconds=wall * exp(-sigma), high_seconds=wall * exp(sigma), gpu_hours_left=seconds / 3600
    )


def _relative_sigma(work: Sequence[tuple[WorkLeft, float]], correction: Correction) -> float:
    """Doubt of the sum: effects err together wherever they appear, residuals err cell by cell."""
    by_effect: dict[Effect, float] = defaultdict(float)
    independent = total = 0.0
    for item, seconds in work:
        total += seconds
        independent += (seconds * correction.residual_sigma) ** 2
        for effect in item.kind.effects:
            by_effect[effect] += seconds
    common = sum((seconds * correction.effect_sigma(effect)) ** 2 for effect, seconds in by_effect.items())
    return float((common + independent) ** 0.5 / total)


def observed_use(useful_gpu_seconds: float, elapsed_gpu_seconds: float, *, prior: float = DEFAULT_USE) -> float:
    """Share of the GPUs' time that went into recorded samples, drawn to the prior by ten GPU-minutes."""
    doubt = 600.0
    return (useful_gpu_seconds + prior * doubt) / (elapsed_gpu_seconds + doubt)
