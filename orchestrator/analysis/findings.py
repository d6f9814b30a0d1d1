"""All analyses of one campaign, computed once; the report, its tables and the commands read from here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from orchestrator.analysis.admissible import Rule, admissible_compression
from orchestrator.analysis.cost_model import CostSettings, cost_table
from orchestrator.analysis.frame import DENSE, CampaignFrames, ScoreMatrix, point_measurements, score_matrix
from orchestrator.analysis.frontier import frontier
from orchestrator.analysis.interactions import ModelComparison, compare_models
from orchestrator.analysis.length import admissible_budget, budget_exponent, relative_error
from orchestrator.analysis.robust_fit import Loss
from orchestrator.analysis.scaling_law import HoldOut, LawFit, fit_law, usable_points
from orchestrator.analysis.scores import score_table
from orchestrator.analysis.sensitivity import size_tolerance, task_sensitivity
from orchestrator.analysis.significance import DEFAULT_MARGIN, compare_with_dense
from orchestrator.domain.flops import ModelShape


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalysisSettings:
    """What a reader may choose."""

    margin: float = DEFAULT_MARGIN
    """Loss of score that counts as none."""
    alpha: float = 0.05
    rule: Rule = Rule.NONINFERIOR
    cost: CostSettings = field(default_factory=CostSettings)
    resamples: int = 1000
    law_loss: Loss = Loss.HUBER
    law_resamples: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class LawStudy:
    """The scaling law of one method: all data, each hold-out that the data allow, and against interactions."""

    points: pd.DataFrame
    fit: LawFit
    deviance_fit: LawFit
    """The same law by binomial deviance, which saturated accuracies do not flatten."""
    hold_outs: Mapping[HoldOut, LawFit]
    interactions: ModelComparison | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """Every table of one campaign; an empty frame where the data do not allow the analysis."""

    frames: CampaignFrames
    settings: AnalysisSettings
    matrix: ScoreMatrix
    scores: pd.DataFrame
    comparisons: pd.DataFrame
    admissible: pd.DataFrame
    admissible_v1: pd.DataFrame
    costs: pd.DataFrame
    frontiers: Mapping[str, pd.DataFrame]
    """By name: `prefill`, `decode`, `density`, `seconds`."""
    speed: pd.DataFrame
    relative_errors: pd.DataFrame
    budgets: pd.DataFrame
    exponents: pd.DataFrame
    sensitivity: pd.DataFrame
    size_tolerance: pd.DataFrame
    laws: Mapping[str, LawStudy]

    @property
    def tasks(self) -> list[str]:
        return sorted(self.scores["task"].unique())

    @property
    def methods(self) -> list[str]:
        """Sparse methods in the order of the spec."""
        return [m for m in dict.fromkeys(self.scores["method"]) if m != DENSE]

    @property
    def models(self) -> list[str]:
        order = self.scores.groupby("model", sort=False)["num_parameters_b"].first()
        return list(order.sort_values(kind="stable").index)


def analyse(
    frames: CampaignFrames, settings: AnalysisSettings | None = None, shapes: Mapping[str, ModelShape] | None = None
) -> Findings:
    """Everything that the campaign's data allow; works on unfinished campaigns, with what is there."""
    settings = settings or AnalysisSettings()
    matrix = score_matrix(frames)
    scores = score_table(matrix, resamples=settings.resamples)
    comparisons = compare_with_dense(matrix, margin=settings.margin, resamples=settings.resamples)
    comparisons = comparisons[comparisons["num_pairs"] > 0].reset_index(drop=True)
    measured = point_measurements(frames)
    costs = cost_table(scores, measured, settings=settings.cost, shapes=shapes)
    errors = relative_error(comparisons)
    budgets = admissible_budget(errors)
    other = Rule.SPARSE_FRONTIER_V1
    return Findings(
        frames=frames,
        settings=settings,
        matrix=matrix,
        scores=scores,
        comparisons=comparisons,
        admissible=admissible_compression(comparisons, rule=settings.rule, alpha=settings.alpha),
        admissible_v1=admissible_compression(comparisons, rule=other, alpha=settings.alpha),
        costs=costs,
        frontiers=frontiers(costs),
        speed=measured_speed_table(costs),
        relative_errors=errors,
        budgets=budgets,
        exponents=budget_exponent(budgets),
        sensitivity=task_sensitivity(comparisons),
        size_tolerance=size_tolerance(comparisons),
        laws=law_studies(scores, settings),
    )


def frontiers(costs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The four frontiers; prefill methods are priced by operations, the others by bytes."""
    scored = costs[costs["num_scored"] > 0]
    scored = scored.assign(density=1 / scored["compression"])
    acts = scored["phase"].str.contains("prefill")
    in_prefill, in_decode = scored[acts | (scored["phase"] == DENSE)], scored[~acts]
    return {
        "prefill": frontier(in_prefill[in_prefill["prefill_flops"].notna()], "prefill_flops"),
        "decode": frontier(in_decode[in_decode["decode_bytes"].notna()], "decode_bytes"),
        "density": frontier(scored[scored["density"].notna()], "density"),
        "seconds": frontier(scored[scored["seconds_total"] > 0], "seconds_total"),
    }


def measured_speed_table(costs: pd.DataFrame) -> pd.DataFrame:
    """Dense ÷ sparse seconds of each (model, method, compression, length), means over tasks; empty without times."""
    keys = ["model", "length_tokens"]
    rows = costs[costs["num_scored"] > 0]
    rows = rows.assign(
        per_token=rows["seconds_decode"] / rows["num_output_tokens"].where(rows["num_output_tokens"] > 0)
    )
    columns = ["seconds_to_first_token", "per_token", "seconds_total"]
    means = rows.groupby([*keys, "method", "compression"], sort=False)[columns].mean().reset_index()
    dense = means[means["method"] == DENSE].set_index(keys)[columns].add_suffix("_dense")
    sparse = means[means["method"] != DENSE].join(dense, on=keys)
    for name, column in (("ttft", columns[0]), ("decode", columns[1]), ("total", columns[2])):
        sparse[f"{name}_speedup"] = sparse[f"{column}_dense"] / sparse[column].where(sparse[column] > 0)
    return sparse.reset_index(drop=True)


def law_studies(scores: pd.DataFrame, settings: AnalysisSettings) -> dict[str, LawStudy]:
    """The law of each sparse method together with dense, where sizes, lengths and compressions vary."""
    usable = usable_points(scores)
    studies = {}
    for method in dict.fromkeys(usable["method"]):
        points = usable[usable["method"].isin([DENSE, method])].reset_index(drop=True)
        axes = ("num_parameters_b", "length_tokens", "compression")
        if method != DENSE and all(points[axis].nunique() > 1 for axis in axes):
            study = _law_study(points, settings)
            if study is not None:
                studies[str(method)] = study
    return studies


def _law_study(points: pd.DataFrame, settings: AnalysisSettings) -> LawStudy | None:
    try:
        fit = fit_law(points, loss=settings.law_loss, resamples=settings.law_resamples)
        deviance = fit_law(points, loss=Loss.BINOMIAL, resamples=settings.law_resamples)
    except ValueError:
        return None
    held = {}
    for hold_out in (HoldOut.LENGTH, HoldOut.MODEL_SIZE, HoldOut.COMPRESSION):
        try:
            held[hold_out] = fit_law(points, hold_out=hold_out, loss=settings.law_loss, resamples=0)
        except ValueError:
            continue
    enough = points.groupby(["model", "task", "length_tokens"]).ngroups >= 10
    return LawStudy(
        points=points,
        fit=fit,
        deviance_fit=deviance,
        hold_outs=held,
        interactions=compare_models(points) if enough else None,
    )


def failure_counts(frames: CampaignFrames) -> pd.Series:
    """Failed samples by kind, most frequent first."""
    kinds = frames.outcomes["failure_kind"].astype(str)
    return kinds[kinds != ""].value_counts()


def accuracy_methods(findings: Findings) -> list[str]:
    """Sparse methods that have at least one scored point with a compression."""
    rows = findings.scores[(findings.scores["num_scored"] > 0) & findings.scores["compression"].notna()]
    present = set(rows["method"])
    return [m for m in findings.methods if m in present]


def mean_admissible(table: pd.DataFrame, method: str) -> float:
    """Mean over models, tasks and lengths; NaN when nothing was decided."""
    values = table.loc[table["method"] == method, "admissible"].dropna()
    return float(values.mean()) if len(values) else float(np.nan)
