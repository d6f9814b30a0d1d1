"""The command line's outer edge: exit codes, and errors as one line instead of a traceback."""

from __future__ import annotations

import errno
import os
import sys
import traceback

import typer

from orchestrator.cli.options import mask_passwords
from orchestrator.errors import UserError

EXIT_BAD_INPUT = 2
EXIT_INTERNAL = 70
"""A fault of ours, not of the input (EX_SOFTWARE of sysexits.h)."""
EXIT_INTERRUPTED = 130
NOT_OURS = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    *(errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP),
}
"""Errors of files that say something about the machine or a path that was given: full, read-only, not a folder."""
MOST_CHARACTERS = 1000
"""Of an error's line."""

# Newer Typer carries its own copy of click, older ones use the package: going through Typer's names suits both.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]


def call(app: typer.Typer) -> int:
    """Runs `app` on the process's arguments and returns the exit code."""
    try:
        code = app(standalone_mode=False)
    except typer.Exit as leave:
        return leave.exit_code
    except (typer.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away (`frontier status | head`); nothing is left to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        return _complain(error)
    return code if isinstance(code, int) else 0


def _complain(error: Exception) -> int:
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()  # type: ignore[attr-defined]
        return EXIT_BAD_INPUT
    if os.environ.get("FRONTIER_DEBUG") == "1":
        print(mask_passwords("".join(traceback.format_exception(error))), end="", file=sys.stderr)
    if isinstance(error, UserError):
        return _line(f"error: {error}", EXIT_BAD_INPUT)
    if isinstance(error, UsageError):
        return _line(f"error: {error.format_message()}{_refused_value(error)}", EXIT_BAD_INPUT)  # type: ignore[attr-defined]
    if isinstance(error, OSError) and error.errno in NOT_OURS:
        return _line(f"error: {_place_of(error)}{error.strerror}", EXIT_BAD_INPUT)
    what = f"{type(error).__name__}: {error}"
    return _line(f"internal error: {what} (frontier --debug … shows where)", EXIT_INTERNAL)


def _refused_value(error: Exception) -> str:
    """What was given, where Typer's text does not say it (its checks of numbers are pydantic's)."""
    told: list[dict[str, object]] = getattr(error.__cause__, "errors", list)()
    return f", not {told[0]['input']!r}" if told and "input" in told[0] else ""


def _place_of(error: OSError) -> str:
    return "" if error.filename is None else f"{error.filename}: "


def _line(text: str, code: int) -> int:
    print(_shortened(mask_passwords(" ".join(text.split()))), file=sys.stderr)
    return code


def _shortened(text: str) -> str:
    """Both ends of a text that quotes something very long: the place stands at its begin, the reason at its end."""
    half = MOST_CHARACTERS // 2
    return text if len(text) <= MOST_CHARACTERS else f"{text[:half]} … {text[-half:]}"
