"""`frontier chaos`: run a campaign while it is being broken, then prove that nothing was lost."""

from __future__ import annotations

import signal
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import JsonOption
from orchestrator.cli.output import note, print_json
from orchestrator.errors import UserError

if TYPE_CHECKING:
    from orchestrator.scheduler.chaos.drill import DrillReport

EXIT_NOT_PROVEN = 1
DATABASES = ("sqlite", "postgresql")


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("chaos", epilog="Example: frontier chaos --plan examples/chaos.yaml --seed 7")(chaos)


def chaos(
    plan: Annotated[Path, typer.Option(help="The chaos plan.", metavar="FILE")],
    seed: Annotated[int | None, typer.Option(help="Instead of the plan's.")] = None,
    database: Annotated[str | None, typer.Option(help="sqlite or postgresql, instead of the plan's.")] = None,
    ray: Annotated[str | None, typer.Option(metavar="ADDRESS", help="A cluster of your own.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Where stores and logs go; default: a temporary folder.")] = None,
    as_json: JsonOption = False,
) -> int:
    """Inject faults by plan, then compare with an undisturbed run. Exit codes: 0 nothing lost, 1 something was."""
    from orchestrator.scheduler.chaos.drill import run_drill
    from orchestrator.scheduler.chaos.plan import ChaosPlan, load_plan_file

    if database not in (None, *DATABASES):
        raise UserError(f"--database is {database!r}; it must be one of: {', '.join(DATABASES)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the drill ends its processes on the way out
    given = {"seed": seed, "store": database, "ray": ray}
    chosen = load_plan_file(plan)
    changed = {key: value for key, value in given.items() if value is not None}
    chosen = ChaosPlan.model_validate({**chosen.model_dump(), **changed})
    place = folder or Path(tempfile.mkdtemp(prefix="frontier-chaos-"))
    note(f"stores and logs: {place}")
    report = run_drill(chosen, place, note)
    if as_json:
        print_json({**asdict(report), "num_faults": report.num_faults, "passed": report.passed})
    else:
        _show(report)
    return 0 if report.passed else EXIT_NOT_PROVEN


def _show(report: DrillReport) -> None:
    kinds = {**report.faults, **{f"prompt: {k}": n for k, n in report.struck.items()}}
    counted = f"{report.num_faults} faults of {len(kinds)} kinds"
    print(f"{counted} in {report.seconds:.0f} s, seed {report.seed}, {report.store}")
    for kind, number in kinds.items():
        print(f"  {number:5d}  {kind}")
    proof = report.proof
    print(f"samples: {proof.num_recorded:,} of {proof.num_samples:,} recorded, {proof.num_failed} as failures")
    print(f"stale outcomes refused: {report.num_refused}; orchestrators: {report.num_orchestrators}; ", end="")
    print(f"workers: {report.num_workers}")
    if report.release_p50_seconds is not None and report.release_p99_seconds is not None:
        print("leased again after a kill, the long outages left out: ", end="")
        print(f"p50 {report.release_p50_seconds:.1f} s, p99 {report.release_p99_seconds:.1f} s")
    print(f"manifest: {proof.manifest} (undisturbed: {report.reference.manifest})")
    for problem in report.problems:
        print(f"problem: {problem}")
    print("nothing lost, nothing twice, nobody wrongly charged" if report.passed else "NOT proven")
