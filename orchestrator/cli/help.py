"""Help screens: every command by what a person wants to do, and every option on a line, within 80×24."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap
from typing import Any

from typer import style
from typer.core import TyperCommand, TyperGroup

GROUPS = (
    ("Start", ("init", "validate", "plan", "run", "submit")),
    ("Follow", ("status", "watch", "failures", ("events", "metrics"))),
    ("Steer", (("pause", "resume", "cancel", "requeue"),)),
    ("Results", ("results", "compare", "report", ("export", "import", "track"), ("verify", "reproduce"))),
    ("Know", (("models", "tasks", "methods"),)),
    ("Operate", (("doctor", "db", "chaos", "simulate", "bench", "adapt"),)),
)
"""Headings with their commands; those in inner brackets share a line."""
SHARED = {
    "export": "out of a store, in, to a tracker",
    "events": "every change; for Prometheus",
    "verify": "is all there, is it the same",
    "pause": "from any machine",
    "models": "what a campaign file names",
    "doctor": "this machine, store, rehearsals",
}
"""What a shared line says, by its first command."""
ABOUT = {
    "plan": "Forecast time, GPU-hours, engine loads and memory",
    "failures": "List what went wrong and how to reproduce it",
    "events": "List every change of a state, a lease or a worker",
    "results": "Show scores with intervals, and differences to dense",
}
"""Shorter words for the first screen than the command's own help has."""
NAME_WIDTH = 38
WIDTH, HEIGHT = 80, 24
"""The screen that every help must fit."""


class FrontierGroup(TyperGroup):
    """The command group of `frontier` with a help screen of its own."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        lines = [f"Usage: {ctx.command_path} [OPTIONS] COMMAND …", "", self.help or "", ""]
        lines += command_lines(self)
        lines += ["", "Options: --verbose  --quiet  --debug  --version  --install-completion  --help"]
        lines.append("Every COMMAND --help has an example. The way in: frontier init campaign.yaml")
        formatter.write("\n".join(line.rstrip() for line in lines) + "\n")


class FrontierSubgroup(TyperGroup):
    """A noun with its verbs, for example `frontier models`."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        lines = [f"Usage: {ctx.command_path} COMMAND …", "", self.help or "", ""]
        lines += [f"  {name:9} {short_help(command)}" for name, command in self.commands.items() if not command.hidden]
        lines += ["", f"Example: {example(next(iter(self.commands.values())))}"]
        formatter.write("\n".join(line.rstrip() for line in lines) + "\n")


class FrontierCommand(TyperCommand):
    """A command whose help is a line an option, so that it fits a screen."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        usage = " ".join([ctx.command_path, *self.collect_usage_pieces(ctx)])
        rows = [option_row(parameter) for parameter in self.get_params(ctx)]
        text = " ".join((self.help or "").split())
        end = ["", f"Example: {example(self)}"]
        lines = [f"Usage: {usage}", "", *wrap(text, WIDTH), "", *option_lines(rows, most=9), *end]
        if len(lines) > HEIGHT:
            # The last row is --help itself, which this reader has found.
            rows = rows[:-1] if len(rows) > HEIGHT - 6 else rows
            lines = [
                f"Usage: {usage}",
                "",
                *wrap(text, WIDTH, max_lines=1, placeholder=" …"),
                "",
                *option_lines(rows, most=1),
                *end,
            ]
        formatter.write("\n".join(lines) + "\n")


def option_lines(rows: Sequence[tuple[str, str]], most: int) -> list[str]:
    """Names on the left, meanings on the right in at most `most` lines each."""
    left = min(26, max(len(names) for names, _ in rows))
    lines = []
    for names, meaning in rows:
        texts = wrap(meaning, WIDTH - left - 4, max_lines=most, placeholder=" …") or [""]
        lines.append(f"  {style(f'{names:{left}}', bold=True)}  {texts[0]}")
        lines += [" " * (left + 4) + text for text in texts[1:]]
    return lines


def option_row(parameter: Any) -> tuple[str, str]:
    """An argument's or option's names, and its meaning with its default."""
    if not parameter.opts or not parameter.opts[0].startswith("-"):
        names = parameter.metavar or parameter.name.upper()
    else:
        names = ", ".join(sorted(parameter.opts, key=len))
        names += "" if parameter.is_flag else f" {parameter.metavar or _metavar(parameter)}"
    meaning = " ".join((getattr(parameter, "help", None) or "").split())
    default = parameter.default
    shown = default not in (None, False, True) and not callable(default) and "default" not in meaning.lower()
    return names, f"{meaning} [{default}]" if shown else meaning


def _metavar(parameter: Any) -> str:
    """`N` for whole numbers, `X` for others, `PATH`, `TEXT`."""
    described = getattr(parameter, "type_descriptor", None)
    kind = described.annotation if described is not None else parameter.type
    name = str(getattr(kind, "__name__", None) or getattr(kind, "name", "text")).lower()
    for word, letter in (("int", "N"), ("float", "X"), ("path", "PATH"), ("str", "TEXT")):
        if word in name:
            return letter
    return name.upper()


def command_lines(group: TyperGroup) -> list[str]:
    """One line a command, or a group of them; commands that no heading names come last."""
    shown: set[str] = set()
    lines = []
    for heading, entries in GROUPS:
        lead = heading
        for entry in entries:
            names = [name for name in ((entry,) if isinstance(entry, str) else entry) if name in group.commands]
            shown.update(names)
            if names:
                lines.append(_line(lead, names, group))
                lead = ""
    others = [name for name, command in group.commands.items() if name not in shown and not command.hidden]
    return lines + ([f"{'Further':8} {' '.join(others)}"] if others else [])


def _line(heading: str, names: list[str], group: TyperGroup) -> str:
    about = SHARED.get(names[0]) if len(names) > 1 else ABOUT.get(names[0])
    width = NAME_WIDTH if len(names) > 1 else 9
    return f"{heading:8} {' '.join(names):{width}} {about or short_help(group.commands[names[0]])}"


def short_help(command: Any) -> str:
    """The first sentence of a command's help, without its full stop."""
    text = " ".join((command.help or "").split("\n\n")[0].split())
    first = text.split(". ")[0].rstrip(".")
    return first if len(first) <= WIDTH - 19 else first[: WIDTH - 20] + "…"


def example(command: Any) -> str:
    """The example in a command's epilog, without its label; empty where there is none."""
    text = " ".join((command.epilog or "").split())
    return text.split(":", 1)[1].strip() if text.lower().startswith("example") and ":" in text else ""
