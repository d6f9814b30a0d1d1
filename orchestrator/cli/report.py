"""`frontier report`: everything about a campaign on one page, with figures and tables as files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import CampaignArgument, JsonOption, StoreOption, store_url
from orchestrator.cli.output import made_folder, note, print_json
from orchestrator.errors import UserError


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("report", epilog="Example: frontier report quickstart --out report")
    def report(
        name: CampaignArgument = None,
        out: Annotated[Path, typer.Option(help="Folder for report.html, figures/ and tables/.")] = Path("report"),
        rule: Annotated[str, typer.Option(help="noninferior, or sparse_frontier_v1 for the paper's.")] = "noninferior",
        margin: Annotated[float, typer.Option(help="Loss of score that counts as none, 0 to 1.")] = 0.05,
        alpha: Annotated[float, typer.Option(help="Error probability of the tests.")] = 0.05,
        formula: Annotated[str, typer.Option(help="Costs: executed, audited, printed_v3 or printed_v1.")] = "executed",
        batch: Annotated[int, typer.Option(min=1, help="Requests that share the weights in decode.")] = 1,
        by_model: Annotated[bool, typer.Option("--by-model", help="Accuracy figures for each model too.")] = False,
        store: StoreOption = None,
        as_json: JsonOption = False,
    ) -> None:
        """Write a self-contained HTML report. It works on an unfinished campaign, and says so."""
        from orchestrator.cli.analysis_options import checked_rule, checked_share, load_frames
        from orchestrator.domain.flops import Formula

        chosen = checked_rule(rule)
        checked_share("margin", margin)
        checked_share("alpha", alpha)
        if formula not in list(Formula):
            raise UserError(f"--formula is {formula!r}; it must be one of: {', '.join(Formula)}")
        frames = load_frames(store_url(store), name)
        made_folder("--out", out)
        from orchestrator.analysis.cost_model import CostSettings
        from orchestrator.analysis.findings import AnalysisSettings, analyse
        from orchestrator.analysis.report import write_report

        cost = CostSettings(formula=Formula(formula), batch=batch)
        findings = analyse(frames, AnalysisSettings(margin=margin, alpha=alpha, rule=chosen, cost=cost))
        processes = min(4, os.cpu_count() or 1) if len(frames.cells) > 100 else 1
        written = write_report(findings, out, by_model=by_model, processes=processes)
        if as_json:
            print_json({"html": str(written.html), "figures": len(written.figures), "tables": len(written.tables)})
        else:
            print(written.html)
            note(
                f"{len(written.figures)} figures in {out / 'figures'}, {len(written.tables)} tables in {out / 'tables'}"
            )
