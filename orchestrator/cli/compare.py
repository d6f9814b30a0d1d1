"""`frontier compare`: two campaigns on the points that both have."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli.options import JsonOption, StoreOption, store_url
from orchestrator.cli.output import note, print_json, print_table

COLUMNS = (
    "model",
    "method",
    "budget",
    "task",
    "length_tokens",
    "num_pairs",
    "num_prompts_differ",
    "first_mean",
    "second_mean",
    "difference",
    "low",
    "high",
    "p_two_sided",
    "p_two_sided_holm",
)
TEXT = ("model", "method", "budget", "task")


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("compare", epilog="Example: frontier compare baseline candidate")
    def compare(
        first: Annotated[str, typer.Argument(help="Campaign.", metavar="A")],
        second: Annotated[str, typer.Argument(help="Campaign to compare with it.", metavar="B")],
        other_store: Annotated[str | None, typer.Option("--other-store", help="Store of B, if another.")] = None,
        store: StoreOption = None,
        as_json: JsonOption = False,
    ) -> None:
        """Compare two campaigns, paired on the samples that both scored. Differences are B − A."""
        from orchestrator.cli.analysis_options import load_frames

        url = store_url(store)
        one, two = load_frames(url, first), load_frames(store_url(other_store) if other_store else url, second)
        from orchestrator.analysis.compare import compare_campaigns

        found = compare_campaigns(one, two)
        rows = found.shared[list(COLUMNS)]
        if as_json:
            shared = [{k: None if v != v else v for k, v in row.items()} for row in rows.to_dict("records")]
            missing = {"only_first": len(found.only_first), "only_second": len(found.only_second)}
            print_json({"first": first, "second": second, "shared": shared, **missing})
            return
        texts = [[f"{v:.3f}" if isinstance(v, float) else str(v) for v in row] for row in rows.itertuples(index=False)]
        names = [c.replace("_", " ") for c in COLUMNS]
        print_table(names, texts, [c.replace("_", " ") for c in COLUMNS if c not in TEXT])
        differ = int((found.shared["p_two_sided_holm"] < 0.05).sum())
        note(
            f"{len(rows)} shared points, {differ} differ significantly (paired, Holm at 5 %), "
            f"{len(found.only_first)} only in {first}, {len(found.only_second)} only in {second}"
        )
