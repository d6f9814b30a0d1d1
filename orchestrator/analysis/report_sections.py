"""The report's sections: which figures and tables stand together, and what is said about how to read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from orchestrator.analysis import report_html as html
from orchestrator.analysis.admissible import Rule
from orchestrator.analysis.findings import Findings, failure_counts
from orchestrator.analysis.plots.style import tokens
from orchestrator.analysis.report_html import Section

SHORT_SCORES = ["model", "method", "budget", "task", "length_tokens", "num_planned", "num_recorded", "num_scored"]
SHORT_SCORES += ["num_unanswered", "num_unscored", "mean", "low", "high", "mean_recorded", "mean_answered"]
SHORT_TESTS = ["model", "method", "budget", "task", "length_tokens", "num_pairs", "dense_mean", "sparse_mean"]
SHORT_TESTS += ["difference", "low", "high", "p_worse", "p_worse_holm", "p_worse_bh", "p_noninferior", "welch_p"]


def at_a_glance(findings: Findings) -> dict[str, str]:
    """Counts for the tiles."""
    scores = findings.scores
    return {
        "cells": f"{len(findings.frames.cells):,}",
        "samples recorded": f"{int(scores['num_recorded'].sum()):,}",
        "of planned": f"{int(scores['num_planned'].sum()):,}",
        "unanswered (count as wrong)": f"{int(scores['num_unanswered'].sum()):,}",
        "unscored (left out of means)": f"{int(scores['num_unscored'].sum()):,}",
        "sparse–dense comparisons": f"{len(findings.comparisons):,}",
    }


def all_sections(findings: Findings, drawn: Mapping[str, str], sentences: Sequence[str]) -> list[Section]:
    """Sections that have something to show, in reading order."""
    candidates = [
        Section("findings", "Findings", "", html.bullets(sentences)),
        _completeness(drawn),
        _loss(drawn),
        _accuracy(findings, drawn),
        _admissible(findings, drawn),
        _sensitivity(findings, drawn),
        _cost(drawn),
        _length(findings, drawn),
        _law(findings, drawn),
        _running(findings, drawn),
        _examples(findings),
        _provenance(findings),
    ]
    return [section for section in candidates if section is not None]


def _by_length(drawn: Mapping[str, str], prefix: str) -> dict[str, str]:
    found = {name.removeprefix(prefix): body for name, body in drawn.items() if name.startswith(prefix)}
    merged: dict[str, str] = {}
    for key, body in found.items():
        label = f"{tokens(float(key.split('-')[0]))} tokens"
        merged[label] = merged.get(label, "") + body
    return merged


def _figures(drawn: Mapping[str, str], *names: str) -> str:
    return "".join(drawn[name] for name in names if name in drawn)


def _completeness(drawn: Mapping[str, str]) -> Section | None:
    body = _figures(drawn, "completeness")
    lead = "Which parts of the grid the numbers below rest on."
    return Section("completeness", "Completeness", lead, body) if body else None


def _loss(drawn: Mapping[str, str]) -> Section | None:
    panels = _by_length(drawn, "heat-")
    lead = (
        "Paired differences: a sparse cell and its dense twin answered the same prompts, so the prompts' difficulty "
        "cancels. Numbers are points of score out of 100."
    )
    return Section("loss", "Loss against dense", lead, html.tabs("heat", panels)) if panels else None


def _accuracy(findings: Findings, drawn: Mapping[str, str]) -> Section | None:
    panels = _by_length(drawn, "accuracy-")
    if not panels:
        return None
    lead = (
        "Unanswered completions count as wrong; samples that we failed to run or score are left out of the mean. The "
        "table gives both denominators: mean (scored), mean_recorded (failures as zero), and mean_answered, which "
        "leaves unanswered ones out as the reference implementation does in two tasks."
    )
    table = html.table(findings.scores[SHORT_SCORES], limit=60)
    body = html.tabs("accuracy", panels) + html.details("Scores (first rows; all in tables/scores.csv)", table)
    return Section("accuracy", "Accuracy by task", lead, body)


def _admissible(findings: Findings, drawn: Mapping[str, str]) -> Section | None:
    body = _figures(drawn, "admissible", "admissible-length")
    if not body:
        return None
    settings = findings.settings
    lead = (
        f"Walking up from the least compression, a level is admitted while a loss of {100 * settings.margin:g} points "
        f"or more is excluded by a paired test at {100 * (1 - settings.alpha):g} % confidence; the walk stops at the "
        "first level that fails, which keeps that confidence for the whole walk."
    )
    if settings.rule is Rule.SPARSE_FRONTIER_V1:
        lead = (
            "The rule of The Sparse Frontier v1: the highest level without a significant loss (one-tailed Welch test)."
        )
    both = _both_rules(findings)
    tests = html.details("Tests as a table (first rows)", html.table(findings.comparisons[SHORT_TESTS], limit=60))
    statement = html.details("Statements (first rows)", html.table(findings.admissible, limit=60))
    return Section("admissible", "Admissible compression", lead, body + both + statement + tests)


def _both_rules(findings: Findings) -> str:
    rows = []
    for method in findings.methods:
        ours = findings.admissible[findings.admissible["method"] == method]
        theirs = findings.admissible_v1[findings.admissible_v1["method"] == method]
        rows.append(
            {
                "method": method,
                "mean admissible": ours["admissible"].mean(),
                "with all walks covered at once": ours["admissible_familywise"].mean(),
                "by the rule of version 1": theirs["admissible"].mean(),
                "walks": len(ours),
                "excluded (near chance)": int(ours["excluded"].sum()),
            }
        )
    return "<h3>Mean over models, tasks and lengths, by rule</h3>" + html.table(pd.DataFrame(rows), digits=2)


def _sensitivity(findings: Findings, drawn: Mapping[str, str]) -> Section | None:
    body = _figures(drawn, "sensitivity")
    if not body:
        return None
    sizes = html.details("Loss by model size at the highest shared compression", html.table(findings.size_tolerance))
    lead = "Averages hide tasks that break early; this is where to look before trusting a mean."
    return Section("sensitivity", "Which tasks break", lead, body + sizes)


def _cost(drawn: Mapping[str, str]) -> Section | None:
    names = ("prefill", "decode", "density", "seconds")
    labels = ("equal operations", "equal bytes", "equal density", "equal seconds")
    panels = {label: drawn[f"frontier-{n}"] for n, label in zip(names, labels, strict=True) if f"frontier-{n}" in drawn}
    if not panels:
        return None
    lead = (
        "Small and dense or large and sparse? Prefill is priced in operations, decode in bytes read for each token; "
        "both count what it costs to choose (index), and use measured densities."
    )
    return Section(
        "cost", "Quality against cost", lead, html.tabs("cost", panels, opened=0) + _figures(drawn, "theory")
    )


def _length(findings: Findings, drawn: Mapping[str, str]) -> Section | None:
    body = _figures(drawn, "relative-error")
    if not body:
        return None
    lead = (
        "Relative error = (dense − sparse) / dense, a ratio of means over the tasks whose dense score is above chance. "
        "Each line is one method with the same cells at every point."
    )
    tables = "<h3>Budget that keeps the error within a limit</h3>" + html.table(findings.budgets, digits=2)
    tables += "<h3>Growth of that budget with the length (tokens ∝ length to this power)</h3>"
    tables += html.table(findings.exponents, digits=2)
    return Section("length", "Prompt length", lead, body + html.details("Budgets and growth", tables))


def _law(findings: Findings, drawn: Mapping[str, str]) -> Section | None:
    body = _figures(drawn, "law", "law-coefficients")
    if not body:
        return None
    lead = (
        "logit(score) = α log N + β log L + γ log C + task effect, natural logarithms; fitted by L-BFGS. "
        "Hold-outs leave out the largest value of one axis and predict it."
    )
    body += "<h3>Fit, in and out of sample</h3>" + html.table(law_quality(findings))
    body += (
        "<h3>Does compression hurt all tasks alike? Additive law against one with interactions, cross-validated</h3>"
    )
    body += html.table(interaction_table(findings), digits=4)
    body += html.details("Coefficients", html.table(law_coefficients(findings)))
    body += html.details("By task, on the held-out part", html.table(law_by_task(findings)))
    return Section("law", "Scaling law", lead, body)


def _running(findings: Findings, drawn: Mapping[str, str]) -> Section | None:
    body = _figures(drawn, "throughput", "speed", "failures")
    counts = failure_counts(findings.frames)
    table = html.table(counts.rename_axis("kind").reset_index(name="samples")) if len(counts) else ""
    return Section("running", "How it ran", "Throughput, measured speed and failures.", body + table)


def _examples(findings: Findings) -> Section | None:
    parts = []
    for example in findings.frames.examples:
        title = " · ".join(example.get(key, "") for key in ("verdict", "method", "budget", "task", "model"))
        note = html.bullets([f"extracted: {example.get('extracted', '')!r}", f"reason: {example.get('reason', '')}"])
        parts.append(html.details(title, note + html.quoted(example.get("completion", ""))))
    lead = "Completions as the models wrote them, to see what a score means. Not a random sample."
    return Section("examples", "Completions to look at", lead, "".join(parts)) if parts else None


def _provenance(findings: Findings) -> Section:
    settings = findings.settings
    rows = [
        *findings.frames.provenance.items(),
        ("margin of non-inferiority", f"{settings.margin:g} of score"),
        ("alpha", f"{settings.alpha:g}"),
        ("rule", str(settings.rule)),
        ("cost formula", f"{settings.cost.formula}, batch {settings.cost.batch}"),
        ("bootstrap resamples", f"{settings.resamples} (scores), {settings.law_resamples} (law), seed 43"),
    ]
    table = pd.DataFrame(rows, columns=["what", "value"])
    return Section("provenance", "Provenance", "Where the numbers come from.", html.table(table))


def law_coefficients(findings: Findings) -> pd.DataFrame:
    """One row a (method, fit, coefficient) with its interval."""
    rows = []
    for method, study in findings.laws.items():
        for loss, fit in ((str(findings.settings.law_loss), study.fit), ("binomial", study.deviance_fit)):
            for name, value, low, high in zip(fit.names, fit.values, fit.low, fit.high, strict=True):
                row = {"method": method, "loss": loss, "coefficient": name, "value": value, "low": low, "high": high}
                rows.append(row | {"reference_task": fit.reference_task})
    return pd.DataFrame(rows)


def law_quality(findings: Findings) -> pd.DataFrame:
    """One row a (method, hold-out): fit in and out of sample."""
    rows = []
    for method, study in findings.laws.items():
        for fit in (study.fit, *study.hold_outs.values()):
            out = fit.held_out
            row = {"method": method, "held_out": str(fit.hold_out), "r2_in": fit.fitted.r_squared}
            row |= {"mae_in": fit.fitted.mean_absolute_error, "alpha": fit.value("alpha"), "beta": fit.value("beta")}
            row |= {"gamma": fit.value("gamma"), "points_out": out.num_points if out else 0}
            row |= {"r2_out": out.r_squared if out else float("nan")}
            row |= {"spearman_out": out.spearman if out else float("nan")}
            row |= {"mae_out": out.mean_absolute_error if out else float("nan")}
            rows.append(row)
    return pd.DataFrame(rows)


def law_by_task(findings: Findings) -> pd.DataFrame:
    """One row a (method, hold-out, task)."""
    parts = [
        fit.per_task.assign(method=method, held_out=str(fit.hold_out))
        for method, study in findings.laws.items()
        for fit in study.hold_outs.values()
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def interaction_table(findings: Findings) -> pd.DataFrame:
    """One row a method: both models out of sample, and which one predicts better."""
    rows = []
    for method, study in findings.laws.items():
        found = study.interactions
        if found is not None:
            row = {"method": method, "mae_additive": found.additive.mean_absolute_error}
            row |= {"mae_interactions": found.interactions.mean_absolute_error, "r2_additive": found.additive.r_squared}
            row |= {"r2_interactions": found.interactions.r_squared, "gain": found.gain, "gain_low": found.gain_low}
            row |= {"gain_high": found.gain_high, "folds": found.num_folds}
            row |= {"better": "interactions" if found.prefers_interactions else "not shown"}
            rows.append(row)
    return pd.DataFrame(rows)
