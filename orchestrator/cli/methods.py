"""`frontier methods`: the sparse attention methods that a campaign file can name, and their options."""

from __future__ import annotations

import ast
import inspect
import textwrap
from dataclasses import MISSING, fields
from typing import Annotated, Any

import typer

from orchestrator.cli.options import JsonOption
from orchestrator.cli.output import console, print_json, print_table
from orchestrator.errors import UserError

app = typer.Typer(help="The attention methods and their options.", no_args_is_help=True)


@app.command("list", epilog="Example: frontier methods list --json")
def list_command(as_json: JsonOption = False) -> None:
    """List the methods: phase, budget, and what each does."""
    from sparsekernels.parameters import METHODS

    described = [describe(name) for name in METHODS]
    if as_json:
        print_json({"methods": described})
        return
    rows = [["dense", "both", "", "Reads everything; the yardstick."]]
    rows += [[d["name"], d["phase"], d["budget"], d["summary"]] for d in described]
    print_table(("method", "phase", "budget", "what it does"), rows)


@app.command("show", epilog="Example: frontier methods show quest")
def show_command(
    name: Annotated[str, typer.Argument(help="A name of `frontier methods list`.")], as_json: JsonOption = False
) -> None:
    """Show a method's options with their defaults and meanings."""
    from sparsekernels.parameters import METHODS

    from orchestrator.domain.problems import did_you_mean

    if name not in METHODS:
        raise UserError(f"unknown method {name!r}{did_you_mean(name, METHODS)}; known: dense, {', '.join(METHODS)}")
    method = describe(name)
    if as_json:
        print_json(method)
        return
    console().print(f"{name} ({method['phase']}): {method['summary']}\n")
    rows = [[o["name"], o["type"], _default(o), o["meaning"]] for o in method["options"]]
    print_table(("option", "type", "default", "meaning"), rows)


def _default(option: dict[str, Any]) -> str:
    return "required" if option["required"] else str(option["default"])


def describe(name: str) -> dict[str, Any]:
    """A method as JSON: `name, phase, budget, summary, options: [{name, type, required, default, meaning}]`."""
    from sparsekernels.parameters import METHODS

    cls = METHODS[name]
    meanings = field_docstrings(cls)
    options = [
        {
            "name": option.name,
            "type": str(option.type),
            "required": option.default is MISSING,
            "default": None if option.default is MISSING else option.default,
            "meaning": meanings.get(option.name, ""),
        }
        for option in fields(cls)
    ]
    summary = " ".join((cls.__doc__ or "").split())
    return {
        "name": name,
        "phase": str(cls.phase),
        "budget": cls.budget_field,
        "summary": summary,
        "options": options,
    }


def field_docstrings(cls: type) -> dict[str, str]:
    """The string literals that stand below a class's annotated fields, by field."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, below in zip(body.body, body.body[1:], strict=False):
        is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and is_text:
            found[field.target.id] = " ".join(str(below.value.value).split())  # type: ignore[attr-defined]
    return found
