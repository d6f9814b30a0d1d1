"""The largest compression that a task still tolerates, by our rule and by version 1's.

NONINFERIOR walks up from the least compression and stops at the first level that is not shown to lose
less than the margin. Because the order is fixed beforehand and the walk stops at the first failure, the
probability that any level it admits loses `margin` or more is at most alpha for each sequence, without
further correction; `admissible_familywise` splits alpha over all sequences (Bonferroni).

SPARSE_FRONTIER_V1 is the paper's rule (4.3): the highest level at which a one-tailed Welch test is not
significant. It need not be monotone, and failing to see a loss is not evidence that there is none.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from orchestrator.analysis.frame import Array

Flags = npt.NDArray[np.bool_]

SEQUENCE = ("model", "method", "phase", "task", "length_tokens")
FLOOR = 0.05
"""Dense means below this are too near to chance for a statement (version 1's threshold)."""


class Rule(StrEnum):
    """How the largest admissible compression is decided."""

    NONINFERIOR = "noninferior"
    SPARSE_FRONTIER_V1 = "sparse_frontier_v1"


def admissible_compression(
    comparisons: pd.DataFrame, *, rule: Rule = Rule.NONINFERIOR, alpha: float = 0.05, floor: float = FLOOR
) -> pd.DataFrame:
    """One row a sequence (model, method, phase, task, length): `admissible` (1 when no level is), `cap`, `statement`.

    `comparisons` is the table of `compare_with_dense`, with a compression for each row. Sequences whose dense
    mean is below `floor` are given with `excluded` True and no value.
    """
    known = comparisons[comparisons["compression"] > 1]
    sequences = known.groupby(list(SEQUENCE), sort=False, dropna=False)
    share = alpha / max(1, sequences.ngroups)
    rows = [
        dict(zip(SEQUENCE, key, strict=True)) | _decide(levels.sort_values("compression"), rule, alpha, share, floor)
        for key, levels in sequences
    ]
    columns = [*SEQUENCE, "dense_mean", "excluded", "admissible", "admissible_familywise", "cap", "statement"]
    return pd.DataFrame(rows, columns=columns)


def _decide(levels: pd.DataFrame, rule: Rule, alpha: float, share: float, floor: float) -> dict[str, Any]:
    compression = levels["compression"].to_numpy()
    dense_mean = float(levels["dense_mean"].max())
    excluded = dense_mean < floor
    value = familywise = float("nan")
    if not excluded:
        value = largest(compression, _passes(levels, rule, alpha), rule)
        familywise = largest(compression, _passes(levels, rule, share), rule) if rule is Rule.NONINFERIOR else value
    return {
        "dense_mean": dense_mean,
        "excluded": excluded,
        "admissible": value,
        "admissible_familywise": familywise,
        "cap": float(compression[-1]),
        "statement": _statement(value, excluded, rule, alpha, floor),
    }


def _passes(levels: pd.DataFrame, rule: Rule, alpha: float) -> Flags:
    if rule is Rule.NONINFERIOR:
        return np.asarray(levels["p_noninferior"] < alpha)
    return np.asarray(levels["welch_p"] >= alpha)


def largest(compression: Array, passes: Flags, rule: Rule) -> float:
    """The admitted compression of one ascending sequence: the last level before the first failure, or version 1's."""
    if rule is Rule.SPARSE_FRONTIER_V1:
        return float(compression[passes].max()) if passes.any() else 1.0
    failures = np.flatnonzero(~passes)
    end = len(compression) if len(failures) == 0 else int(failures[0])
    return float(compression[end - 1]) if end else 1.0


def _statement(value: float, excluded: bool, rule: Rule, alpha: float, floor: float) -> str:
    if excluded:
        return f"dense mean below {floor:g}: no statement"
    if rule is Rule.SPARSE_FRONTIER_V1:
        return f"no significant loss seen at {value:g}× (Welch, one-tailed, p ≥ {alpha:g}); not a guarantee"
    if value <= 1:
        return f"no level shown to lose less than the margin at {100 * (1 - alpha):g} % confidence"
    return f"every level up to {value:g}× loses less than the margin, at {100 * (1 - alpha):g} % confidence"
