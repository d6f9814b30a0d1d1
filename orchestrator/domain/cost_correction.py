"""Correct predicted seconds by what a campaign has seen: one factor per model, length, method and task.

The logarithm of observed over predicted seconds is taken as a sum of effects, each shrunk towards zero by
`SHRINKAGE` samples' worth of doubt, fitted by sweeping over them in turn.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import exp, log

SHRINKAGE = 4.0
"""Pseudo-samples at zero behind every effect."""
PRIOR_SIGMA = 0.35
"""Standard deviation (log) of an effect that nothing was seen of: what separates our formulas from real engines."""
NUM_SWEEPS = 12

Effect = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What the seconds of a sample depend on."""

    model: str
    length_tokens: int
    method: str
    task: str

    @property
    def effects(self) -> tuple[Effect, ...]:
        length = str(self.length_tokens)
        return (
            ("all",),
            ("model", self.model),
            ("length", self.model, length),
            ("task", self.task),
            ("method", self.method),
            ("method", self.method, length),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """Samples of one kind that ran: their engine seconds, predicted and observed."""

    kind: Kind
    num_samples: int
    predicted_seconds: float
    observed_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """Factors on predictions, with their doubt."""

    effects: Mapping[Effect, float] = field(default_factory=dict)
    weights: Mapping[Effect, float] = field(default_factory=dict)
    """Samples seen behind each effect."""
    residual_sigma: float = PRIOR_SIGMA
    """What the effects leave unexplained of one cell, standard deviation (log)."""

    def factor(self, kind: Kind) -> float:
        """Observed over predicted seconds to expect for samples of this kind."""
        return exp(sum(self.effects.get(effect, 0.0) for effect in kind.effects))

    def effect_sigma(self, effect: Effect) -> float:
        """Doubt of one effect, standard deviation (log): the prior's, less with every sample seen."""
        return PRIOR_SIGMA * float((SHRINKAGE / (SHRINKAGE + self.weights.get(effect, 0.0))) ** 0.5)


def learn(observations: Iterable[Observation]) -> Correction:
    """The correction that the observations support; none when there are none."""
    seen = [o for o in observations if o.num_samples and o.predicted_seconds > 0 and o.observed_seconds > 0]
    if not seen:
        return Correction()
    ratios = [log(o.observed_seconds / o.predicted_seconds) for o in seen]
    members: dict[Effect, list[int]] = defaultdict(list)
    for index, observation in enumerate(seen):
        for effect in observation.kind.effects:
            members[effect].append(index)
    weights = {effect: float(sum(seen[i].num_samples for i in rows)) for effect, rows in members.items()}
    effects, residuals = _sweep(seen, ratios, members, weights)
    return Correction(effects=effects, weights=weights, residual_sigma=_spread(seen, residuals))


def _sweep(
    seen: Sequence[Observation],
    ratios: Sequence[float],
    members: Mapping[Effect, Sequence[int]],
    weights: Mapping[Effect, float],
) -> tuple[dict[Effect, float], list[float]]:
    effects = dict.fromkeys(members, 0.0)
    residuals = list(ratios)
    for _ in range(NUM_SWEEPS):
        for effect, rows in members.items():
            total = sum(seen[i].num_samples * residuals[i] for i in rows) + weights[effect] * effects[effect]
            change = total / (weights[effect] + SHRINKAGE) - effects[effect]
            effects[effect] += change
            for i in rows:
                residuals[i] -= change
    return effects, residuals


def _spread(seen: Sequence[Observation], residuals: Sequence[float]) -> float:
    """Weighted spread of what is left, drawn to the prior by `SHRINKAGE` observations."""
    total = float(sum(o.num_samples for o in seen))
    variance = sum(o.num_samples * r * r for o, r in zip(seen, residuals, strict=True)) / total
    doubt = SHRINKAGE / (SHRINKAGE + len(seen))
    return float(((1 - doubt) * variance + doubt * PRIOR_SIGMA**2) ** 0.5)
