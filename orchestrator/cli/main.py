"""The command `frontier`: every command is a module of this package with a `register` function or a sub-app `app`."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Annotated

import click
import typer

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
    "results",
    "compare",
    "report",
    "export",
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

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


def build_app() -> typer.Typer:
    """The whole command line."""
    app = typer.Typer(
        name="frontier",
        help="Run large evaluation campaigns of sparse attention in long-context LLMs.",
        epilog="Start with: frontier init campaign.yaml",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def _global(
        debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
        version: Annotated[
            bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
        ] = False,
    ) -> None:
        if debug:
            os.environ["FRONTIER_DEBUG"] = "1"

    for name in COMMANDS:
        importlib.import_module(f"orchestrator.cli.{name}").register(app)
    for name in GROUPS:
        app.add_typer(importlib.import_module(f"orchestrator.cli.{name}").app, name=name)
    return app


def main() -> None:
    """Entry point: one line for a user's error, exit code 2; 130 when interrupted."""
    try:
        code = build_app()(standalone_mode=False)
    except UserError as error:
        code = _complain(str(error))
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = EXIT_BAD_INPUT
    except click.UsageError as error:
        code = _complain(error.format_message())
    except (click.Abort, KeyboardInterrupt):
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away (`frontier status | head`); nothing is left to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code if isinstance(code, int) else 0)


def _complain(message: str) -> int:
    if os.environ.get("FRONTIER_DEBUG") == "1":
        raise  # noqa: PLE0704 - called inside the except clauses of `main`
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return EXIT_BAD_INPUT


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"frontier {version('sparse-frontier-campaigns')}")
        raise typer.Exit


if __name__ == "__main__":
    main()
