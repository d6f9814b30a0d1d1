"""`frontier results`: scores with their intervals and denominators, and sparse against dense."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from orchestrator.cli.options import CampaignArgument, JsonOption, StoreOption, store_url
from orchestrator.cli.output import note, print_json, print_table

SCORES = (
    "model",
    "method",
    "budget",
    "task",
    "length_tokens",
    "num_planned",
    "num_recorded",
    "num_scored",
    "num_unanswered",
    "num_unscored",
    "mean",
    "low",
    "high",
    "mean_recorded",
)
TESTS = (
    "model",
    "method",
    "budget",
    "task",
    "length_tokens",
    "num_pairs",
    "dense_mean",
    "sparse_mean",
    "difference",
    "low",
    "high",
    "p_worse",
    "p_worse_holm",
    "p_noninferior",
    "p_noninferior_bh",
)
ADMISSIBLE = ("model", "method", "task", "length_tokens", "dense_mean", "admissible", "cap", "statement")
VIEWS = {"scores": SCORES, "against-dense": TESTS, "admissible": ADMISSIBLE}


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("results", epilog="Example: frontier results quickstart --view admissible --margin 0.03")
    def results(
        name: CampaignArgument = None,
        view: Annotated[str, typer.Option(help=f"One of: {', '.join(VIEWS)}.")] = "scores",
        rule: Annotated[str, typer.Option(help="noninferior, or sparse_frontier_v1 for the paper's.")] = "noninferior",
        margin: Annotated[float, typer.Option(help="Loss of score that counts as none, 0 to 1.")] = 0.05,
        alpha: Annotated[float, typer.Option(help="Error probability of the tests.")] = 0.05,
        store: StoreOption = None,
        as_json: JsonOption = False,
    ) -> None:
        """Show scores with intervals, differences to dense, or the largest admissible compression."""
        from orchestrator.cli.analysis_options import checked_rule, checked_share, checked_view, load_frames

        checked_view(view, tuple(VIEWS))
        chosen = checked_rule(rule)
        checked_share("margin", margin)
        checked_share("alpha", alpha)
        frames = load_frames(store_url(store), name)
        table = _table(frames, view, chosen, margin, alpha)
        columns = list(VIEWS[view])
        if as_json:
            print_json({"campaign": frames.name, "state": frames.state, "view": view, "rows": _plain(table[columns])})
            return
        number = {c for c in columns if table[c].dtype.kind in "if"}
        print_table(
            [c.replace("_", " ") for c in columns], _texts(table[columns]), [c.replace("_", " ") for c in number]
        )
        if not frames.is_complete:
            note(f"{frames.name} is unfinished: {frames.num_recorded} of {frames.num_planned} samples are recorded")


def _table(frames: Any, view: str, rule: Any, margin: float, alpha: float) -> Any:
    from orchestrator.analysis.admissible import admissible_compression
    from orchestrator.analysis.frame import score_matrix
    from orchestrator.analysis.scores import score_table
    from orchestrator.analysis.significance import compare_with_dense

    matrix = score_matrix(frames)
    if view == "scores":
        return score_table(matrix, resamples=200)
    tests = compare_with_dense(matrix, margin=margin, resamples=200)
    if view == "against-dense":
        return tests
    return admissible_compression(tests[tests["num_pairs"] > 0], rule=rule, alpha=alpha)


def _plain(table: Any) -> list[dict[str, Any]]:
    """Rows for JSON, where an absent number is null."""
    return [{k: None if v != v else v for k, v in row.items()} for row in table.to_dict("records")]


def _texts(table: Any) -> list[list[str]]:
    return [[_text(value) for value in row] for row in table.itertuples(index=False)]


def _text(value: Any) -> str:
    if isinstance(value, float):
        return "–" if value != value else f"{value:.3f}"
    return str(value)
