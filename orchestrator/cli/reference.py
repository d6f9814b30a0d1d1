"""`docs/cli.md`, made from the commands themselves: `python -m orchestrator.cli.reference > docs/cli.md`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer
from typer.core import TyperGroup

from orchestrator.cli.help import command_lines, example

PREFACE = """\
# Commands

<!-- Made by `python -m orchestrator.cli.reference > docs/cli.md`; a test compares. -->

Every command takes `--help`. Those that print data take `--json` ([its forms](json.md)); those that read or write a
store find it by `--store`, else `FRONTIER_STORE`, else `store = "…"` in `~/.config/frontier/config.toml` (or the file
that `FRONTIER_CONFIG` names), else a SQLite file in `FRONTIER_HOME` (`~/.local/share/frontier`).

Exit codes: 0 done · 1 the answer is no (a check failed) · 2 the input is wrong, told in one line · 70 a fault of ours ·
130 interrupted. `frontier --verbose COMMAND …` tells every event (what `frontier events` lists) on standard error as it
happens, `--quiet` silences remarks there, `--debug` shows tracebacks. Passwords in URLs are shown as `***`, and colour
is off when the output is piped or `NO_COLOR` is set.
`frontier --install-completion` teaches the shell the commands and options.
"""


def commands(group: TyperGroup, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that does something, with its words, in the order of the help screen."""
    for name, command in group.commands.items():
        if command.hidden:
            continue
        if isinstance(command, TyperGroup):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


def reference(app: typer.Typer) -> str:
    """The whole document."""
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    overview = "\n".join(command_lines(group))
    parts = [PREFACE, f"```text\n{overview}\n```"]
    parts += [_section(path, command) for path, command in commands(group)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _section(path: tuple[str, ...], command: Any) -> str:
    words = " ".join(("frontier", *path))
    context = command.context_class(command, info_name=words)
    usage = " ".join([words, *command.collect_usage_pieces(context)])
    lines = [f"## {words}", "", " ".join((command.help or "").split()), "", f"```text\n{usage}\n```"]
    records = [record for parameter in command.get_params(context) if (record := parameter.get_help_record(context))]
    lines += ["", "| option | meaning |", "| --- | --- |"]
    lines += [f"| `{_cell(option)}` | {_cell(meaning)} |" for option, meaning in records]
    if example(command):
        lines += ["", f"Example: `{example(command)}`"]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    from orchestrator.cli.main import build_app

    print(reference(build_app()), end="")
