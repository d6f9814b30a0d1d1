"""The command `frontier`: every command is a module of this package with a `register` function or a sub-app `app`."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from typing import Annotated

import typer

from orchestrator.cli.boundary import call
from orchestrator.cli.help import FrontierCommand, FrontierGroup, FrontierSubgroup
from orchestrator.cli.verbose import show_remarks
from orchestrator.errors import UserError

COMMANDS = (
    "init",
    "validate",
    "plan",
    "run",
    "submit",
    "status",
    "watch",
    "control",
    "failures",
    "events",
    "metrics",
    "results",
    "compare",
    "report",
    "export",
    "track",
    "reproduce",
    "verify",
    "chaos",
    "simulate",
    "adapt",
    "bench",
    "doctor",
)
"""Modules with `register(app)`, in the order of the help screen."""
GROUPS = ("models", "tasks", "methods", "db")
"""Modules with a sub-app `app`."""


def build_app() -> typer.Typer:
    """The whole command line."""
    app = typer.Typer(
        name="frontier",
        cls=FrontierGroup,
        help="Run large evaluation campaigns of sparse attention in long-context LLMs.",
        epilog="Start with: frontier init campaign.yaml",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def _global(
        debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
        verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Every event on standard error.")] = False,
        quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No remarks on standard error.")] = False,
        version: Annotated[
            bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
        ] = False,
    ) -> None:
        if debug:
            os.environ["FRONTIER_DEBUG"] = "1"
        if verbose and quiet:
            raise UserError("--verbose and --quiet exclude each other")
        if verbose:
            show_remarks()
        if quiet:
            os.environ["FRONTIER_QUIET"] = "1"

    for name in _present(COMMANDS):
        importlib.import_module(f"orchestrator.cli.{name}").register(app)
    for name in _present(GROUPS):
        app.add_typer(importlib.import_module(f"orchestrator.cli.{name}").app, name=name, cls=FrontierSubgroup)
    _use_our_help(app)
    return app


def _use_our_help(app: typer.Typer) -> None:
    """Every command, whichever module registered it, shows the compact help."""
    for command in app.registered_commands:
        command.cls = FrontierCommand
    for group in app.registered_groups:
        if group.typer_instance is not None:
            _use_our_help(group.typer_instance)


def _present(names: tuple[str, ...]) -> list[str]:
    return [name for name in names if importlib.util.find_spec(f"orchestrator.cli.{name}") is not None]


def main() -> None:
    """Entry point: one line for an error, exit code 2 for bad input; 130 when interrupted."""
    _open_what_is_closed()
    sys.exit(call(build_app()))


def _open_what_is_closed() -> None:
    """A stream that the caller closed (`>&-`) is None in Python; what is written there goes nowhere instead."""
    if sys.stdout is None or sys.stderr is None:
        nowhere = open(os.devnull, "w")  # noqa: SIM115 - for the life of the process
        sys.stdout, sys.stderr = sys.stdout or nowhere, sys.stderr or nowhere


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"frontier {version('sparse-frontier-campaigns')}")
        raise typer.Exit


if __name__ == "__main__":
    main()
