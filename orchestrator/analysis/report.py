"""`frontier report`: one HTML file that needs nothing else, the figures as files, the tables as CSV."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from orchestrator.analysis import report_html as html
from orchestrator.analysis import report_sections as sections
from orchestrator.analysis.findings import Findings
from orchestrator.analysis.headline import headline
from orchestrator.analysis.report_figures import Drawing, drawings, render_all


@dataclass(frozen=True, slots=True)
class ReportFiles:
    """What was written."""

    html: Path
    figures: tuple[Path, ...]
    tables: tuple[Path, ...]


def write_report(
    findings: Findings,
    folder: Path,
    *,
    by_model: bool = False,
    processes: int = 1,
    progress: Callable[[str], None] | None = None,
) -> ReportFiles:
    """Write `report.html`, `figures/` and `tables/` under `folder`, which is made if absent."""
    figures, tables = folder / "figures", folder / "tables"
    for path in (figures, tables):
        path.mkdir(parents=True, exist_ok=True)
    wanted = [d for d in drawings(findings, by_model=by_model) if _is_wanted(d, findings)]
    svgs = render_all(wanted, figures, processes=processes, progress=progress)
    captions = {d.name: d.caption for d in wanted}
    drawn = {name: html.inline_figure(svg, name, captions[name]) for name, svg in svgs.items()}
    written = tuple(_write_table(frame, tables / f"{name}.csv") for name, frame in result_tables(findings).items())
    path = folder / "report.html"
    path.write_text(render_page(findings, drawn), encoding="utf-8")
    return ReportFiles(path, tuple(figures / f"{name}.svg" for name in drawn), written)


def _is_wanted(drawing: Drawing, findings: Findings) -> bool:
    return drawing.name != "completeness" or not findings.frames.is_complete


def _write_table(frame: pd.DataFrame, path: Path) -> Path:
    frame.to_csv(path, index=False)
    return path


def result_tables(findings: Findings) -> dict[str, pd.DataFrame]:
    """Every table by its file name."""
    return {
        "scores": findings.scores,
        "comparisons": findings.comparisons.drop(columns="row"),
        "admissible": findings.admissible,
        "admissible_sparse_frontier_v1": findings.admissible_v1,
        "costs": findings.costs,
        **{f"frontier_{name}": table for name, table in findings.frontiers.items()},
        "measured_speed": findings.speed,
        "relative_error": findings.relative_errors,
        "admissible_budget": findings.budgets,
        "budget_exponent": findings.exponents,
        "sensitivity": findings.sensitivity,
        "size_tolerance": findings.size_tolerance,
        "scaling_law": sections.law_coefficients(findings),
        "scaling_law_fit": sections.law_quality(findings),
        "scaling_law_by_task": sections.law_by_task(findings),
        "interactions": sections.interaction_table(findings),
    }


def render_page(findings: Findings, drawn: Mapping[str, str]) -> str:
    """The HTML document; `drawn` holds the figures' HTML by name."""
    frames = findings.frames
    subtitle = [
        f"{len(findings.models)} models · {len(findings.tasks)} tasks · "
        f"{findings.scores['length_tokens'].nunique()} lengths · {len(findings.methods)} sparse methods and dense",
    ]
    top = _banner(findings) + html.tiles(sections.at_a_glance(findings))
    parts = sections.all_sections(findings, drawn, headline(findings))
    return html.page(f"Campaign {frames.name}", subtitle, top, parts)


def _banner(findings: Findings) -> str:
    frames = findings.frames
    if frames.is_complete:
        return html.banner(f"Complete: all {frames.num_planned:,} planned samples are recorded.", done=True)
    share = 100 * frames.num_recorded / max(1, frames.num_planned)
    return html.banner(
        f"Unfinished campaign (state: {frames.state}): {frames.num_recorded:,} of {frames.num_planned:,} samples "
        f"recorded ({share:.1f} %). Cells that lack samples have wider intervals or are left out of averages; every "
        "figure below can still change.",
        done=False,
    )
