"""The first help screen: every command, by what a person wants to do, on 24 lines."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

GROUPS = (
    ("Start", ("init", "validate", "plan", "run", "submit")),
    ("Follow", ("status", "watch", "failures", "events")),
    ("Steer", (("pause", "resume", "cancel", "requeue"),)),
    ("Results", ("results", "compare", "report", "export", "verify")),
    ("Know", (("models", "tasks", "methods"),)),
    ("Operate", (("doctor", "db", "chaos", "simulate", "bench", "adapt"),)),
)
"""Headings with their commands; those in inner brackets share a line."""
SHARED = {
    "pause": "from any machine",
    "models": "what a campaign file names",
    "doctor": "this machine, store, rehearsals",
}
"""What a shared line says, by its first command."""
NAME_WIDTH = 38
WIDTH, HEIGHT = 80, 24
"""The screen that every help must fit."""


class FrontierGroup(TyperGroup):
    """The command group of `frontier` with a help screen of its own."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        lines = [f"Usage: {ctx.command_path} [OPTIONS] COMMAND …", "", self.help or "", ""]
        lines += command_lines(self)
        lines += ["", "Options: --debug (tracebacks)  --quiet  --version  --install-completion  --help"]
        lines.append("Every COMMAND --help has an example. The way in: frontier init campaign.yaml")
        formatter.write("\n".join(line.rstrip() for line in lines) + "\n")


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
    about = SHARED.get(names[0]) if len(names) > 1 else None
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
