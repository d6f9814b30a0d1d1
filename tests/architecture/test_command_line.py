"""The command line holds its promises: every help fits a screen and has an example, and docs/cli.md is up to date."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup
from typer.testing import CliRunner

from orchestrator.cli.help import HEIGHT, WIDTH, example
from orchestrator.cli.main import build_app
from orchestrator.cli.reference import commands, reference

DOCS = Path(__file__).parents[2] / "docs"
APP = build_app()
GROUP = typer.main.get_command(APP)
assert isinstance(GROUP, TyperGroup)
COMMANDS = dict(commands(GROUP))
GROUPS = [(name,) for name, command in GROUP.commands.items() if isinstance(command, TyperGroup)]


def words(path: tuple[str, ...]) -> str:
    return " ".join(path) or "frontier"


@pytest.mark.parametrize("option", ["--help", "-h"])
@pytest.mark.parametrize("path", [(), *GROUPS, *COMMANDS], ids=words)
def test_help_fits_a_screen_and_has_an_example(path: tuple[str, ...], option: str) -> None:
    shown = CliRunner().invoke(APP, [*path, option], env={"COLUMNS": str(WIDTH), "TERMINAL_WIDTH": str(WIDTH)})
    lines = shown.output.rstrip().splitlines()
    assert shown.exit_code == 0
    assert len(lines) <= HEIGHT, f"{len(lines)} lines"
    assert max(map(len, lines)) <= WIDTH
    assert "Example: frontier " in shown.output or not path


@pytest.mark.parametrize("path", COMMANDS, ids=words)
def test_every_command_has_an_example_of_itself(path: tuple[str, ...]) -> None:
    assert example(COMMANDS[path]).startswith(f"frontier {words(path)}")


@pytest.mark.parametrize("path", COMMANDS, ids=words)
def test_every_option_says_what_it_does(path: tuple[str, ...]) -> None:
    silent = [p.name for p in COMMANDS[path].params if not getattr(p, "help", None)]
    assert silent == []


@pytest.mark.parametrize("option", ["--store", "--json"])
def test_an_option_means_the_same_everywhere(option: str) -> None:
    meanings = {p.help for command in COMMANDS.values() for p in command.params if option in p.opts}
    assert len(meanings) == 1


def test_the_reference_is_what_the_commands_say() -> None:
    made = reference(APP)
    assert (DOCS / "cli.md").read_text() == made, "run: python -m orchestrator.cli.reference > docs/cli.md"


def test_every_form_of_json_is_documented() -> None:
    text = (DOCS / "json.md").read_text()
    with_json = [path for path, command in COMMANDS.items() if any("--json" in p.opts for p in command.params)]
    missing = [words(path) for path in with_json if f"## frontier {words(path)}\n" not in text]
    assert missing == []
