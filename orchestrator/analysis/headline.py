"""The findings in sentences, each with its figures; nothing is said that the tables do not hold."""

from __future__ import annotations

import pandas as pd

from orchestrator.analysis.admissible import Rule
from orchestrator.analysis.findings import Findings, mean_admissible
from orchestrator.analysis.scaling_law import HoldOut

HURTING_COMPRESSION = 5.0


def headline(findings: Findings) -> list[str]:
    """A few sentences for the top of the report, most important first."""
    sentences = [*_admissible(findings), *_tasks(findings), *_frontier(findings), *_law(findings), *_length(findings)]
    if findings.comparisons.empty and not sentences:
        return ["There are no sparse cells with a dense twin yet, so nothing can be compared."]
    return [*_without_compression(findings), *sentences]


def _without_compression(findings: Findings) -> list[str]:
    unknown = int(findings.comparisons["compression"].isna().sum())
    if not unknown:
        return []
    return [
        f"{unknown:,} of {len(findings.comparisons):,} comparisons with dense say nothing of admissible compression: "
        "neither the spec nor a measured density tells how far the cell compresses."
    ]


def _admissible(findings: Findings) -> list[str]:
    table = findings.admissible
    means = {m: mean_admissible(table, m) for m in findings.methods}
    known = {m: v for m, v in means.items() if v == v}
    if not known:
        return []
    best = max(known, key=lambda m: known[m])
    worst = min(known, key=lambda m: known[m])
    rule = findings.settings.rule
    if known[best] <= 1:
        return [
            "No level of any method is shown to keep what is asked: more samples, or a wider margin, would tell more."
        ]
    loss = f"a loss below {100 * findings.settings.margin:g} points shown at {100 * (1 - findings.settings.alpha):g} %"
    how = loss if rule is Rule.NONINFERIOR else "no significant loss by Welch's test"
    text = f"{best} tolerates most: {known[best]:.1f}× on average over models, tasks and lengths ({how})"
    out = [text + (f"; {worst} least, {known[worst]:.1f}×." if worst != best else ".")]
    v1 = mean_admissible(findings.admissible_v1, best)
    if rule is Rule.NONINFERIOR and v1 == v1:
        out.append(
            f"The rule of The Sparse Frontier v1 would say {v1:.1f}× for {best}: it takes the lack of a significant "
            "loss for safety, ours asks that a loss be excluded."
        )
    return out


def _tasks(findings: Findings) -> list[str]:
    table = findings.admissible[findings.admissible["admissible"].notna()]
    if table.empty:
        return []
    configurations = table.groupby(["model", "method", "length_tokens"], sort=False)["admissible"].min()
    hurt = int((configurations < HURTING_COMPRESSION).sum())
    out = [
        f"{hurt} of {len(configurations)} configurations (model, method, length) have a task that tolerates less than "
        f"{HURTING_COMPRESSION:g}×."
    ]
    by_task = table.groupby("task")["admissible"].mean().sort_values()
    if len(by_task) > 1:
        out.append(
            f"Most sensitive task: {by_task.index[0]} ({by_task.iloc[0]:.1f}× on average); least: {by_task.index[-1]} "
            f"({by_task.iloc[-1]:.1f}×)."
        )
    return out


def _frontier(findings: Findings) -> list[str]:
    out = []
    for name, what in (("prefill", "operations in the prefill"), ("decode", "bytes read in decode")):
        table = findings.frontiers[name]
        sparse = table[table["method"] != "dense"]
        if sparse.empty or table["model"].nunique() < 2:
            continue
        longest = table["length_tokens"].max()
        rows = table[table["length_tokens"] == longest]
        larger = _beaten_dense(rows)
        dense = rows[rows["method"] == "dense"]
        out.append(
            f"At {longest} tokens and equal {what}, {larger} of {len(dense)} dense models are matched or beaten by a "
            "larger sparse one that costs no more."
        )
    return out


def _beaten_dense(rows: pd.DataFrame) -> int:
    count = 0
    for _, dense in rows[rows["method"] == "dense"].iterrows():
        rival = rows[
            (rows["method"] != "dense")
            & (rows["num_parameters_b"] > dense["num_parameters_b"])
            & (rows["cost"] <= dense["cost"])
            & (rows["mean"] >= dense["mean"])
        ]
        count += not rival.empty
    return count


def _law(findings: Findings) -> list[str]:
    out = []
    for method, study in findings.laws.items():
        held = study.hold_outs.get(HoldOut.COMPRESSION)
        if held is None or held.held_out is None:
            continue
        low, high = (float(ends[study.fit.names.index("gamma")]) for ends in (study.fit.low, study.fit.high))
        out.append(
            f"Scaling law, {method}: γ = {study.fit.value('gamma'):.2f} [{low:.2f}, {high:.2f}]; the highest "
            f"compression, held out, is predicted within {held.held_out.mean_absolute_error:.3f} of score on average."
        )
    return out[:3]


def _length(findings: Findings) -> list[str]:
    rows = findings.exponents
    if rows.empty:
        return []
    limit = rows["limit"].iloc[-1]
    some = rows[rows["limit"] == limit]
    parts = ", ".join(f"{r.method} L^{r.exponent:.2f}" for r in some.itertuples())
    return [f"Tokens needed for a relative error of {limit:g} grow with the prompt length L as: {parts}."]
