"""`frontier reproduce`: run one sample of a campaign alone, without touching its record."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from orchestrator.cli.options import JsonOption, StoreOption, store_url
from orchestrator.cli.output import print_json

EXIT_FAILED = 3


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("reproduce", epilog="Example: frontier reproduce my-campaign --cell KEY --index 7")(reproduce)


def reproduce(
    name: Annotated[str, typer.Argument(help="The campaign.", metavar="NAME")],
    cell: Annotated[str, typer.Option(help="The cell's key, as `frontier failures` prints it.")],
    index: Annotated[int, typer.Option(min=0, help="The sample's index.")],
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> int:
    """Load the engine in this process, run one sample alone, print its outcome. Exit codes: 0 scored, 3 failed."""
    from orchestrator.scheduler.reproduction import sample_order
    from orchestrator.store.session import open_store
    from workers.alone import run_alone

    with open_store(store_url(store), create=False) as opened:
        engine_name, order = sample_order(opened, name, cell, index)
    outcome = run_alone(engine_name, order)
    if as_json:
        print_json(asdict(outcome))
    elif outcome.failure is not None:
        print(f"{outcome.failure.kind} in {outcome.failure.where}: {outcome.failure.message}")
        print(outcome.failure.detail)
    else:
        print(outcome.completion)
        print(f"{outcome.verdict}, score {outcome.score}, {outcome.num_output_tokens} tokens, {outcome.finish_reason}")
    return EXIT_FAILED if outcome.failure is not None else 0
