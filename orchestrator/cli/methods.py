"""`frontier methods`: the sparse attention methods that a campaign file can name, and their options."""

from __future__ import annotations

import ast
import inspect
import textwrap
from dataclasses import MISSING, fields
from typing import Annotated, Any

import typer

from orchestrator.cli.options import JsonOption
from orchestrator.cli.output import console, note, print_json, print_table
from orchestrator.cli.skeleton import OutOption, report_skeleton
from orchestrator.errors import UserError

app = typer.Typer(help="The attention methods and their options.", no_args_is_help=True)


@app.command("list", epilog="Example: frontier methods list --json")
def list_command(as_json: JsonOption = False) -> None:
    """List the methods: phase, budget, and what each does."""
    from sparsekernels.parameters import METHODS

    described = [found for name in METHODS if (found := _described(name)) is not None]
    for name, package in METHODS.shadowed().items():
        note(f"method {name!r} of {package} is hidden by frontier's own method of that name")
    if as_json:
        print_json({"methods": described})
        return
    rows = [["dense", "both", "", "frontier", "Reads everything; the yardstick."]]
    rows += [[d["name"], d["phase"], d["budget"], d["from"], d["summary"]] for d in described]
    print_table(("method", "phase", "budget", "from", "what it does"), rows)


def _described(name: str) -> dict[str, Any] | None:
    """The method as JSON; a note and None when its package is broken, so that the others are still listed."""
    from sparsekernels.parameters import ParameterError

    try:
        return describe(name)
    except ParameterError as error:
        note(str(error))
        return None


@app.command("show", epilog="Example: frontier methods show quest")
def show_command(
    name: Annotated[str, typer.Argument(help="A name of `frontier methods list`.")], as_json: JsonOption = False
) -> None:
    """Show a method's options with their defaults and meanings."""
    from sparsekernels.parameters import METHODS, ParameterError

    from orchestrator.domain.problems import did_you_mean

    if name == "dense":
        raise UserError("dense is full attention and has no options")
    if name not in METHODS:
        raise UserError(f"unknown method {name!r}{did_you_mean(name, METHODS)}; known: {', '.join(METHODS)}")
    try:
        method = describe(name)
    except ParameterError as error:
        raise UserError(str(error)) from None
    if as_json:
        print_json(method)
        return
    console().print(f"{name} ({method['phase']}): {method['summary']}\n")
    rows = [[o["name"], o["type"], _default(o), o["meaning"]] for o in method["options"]]
    print_table(("option", "type", "default", "meaning"), rows)


@app.command("new", epilog="Example: frontier methods new my_method --phase decode")
def new_command(
    name: Annotated[str, typer.Argument(help="Name of the method: lower case, digits and _.")],
    phase: Annotated[str, typer.Option("--phase", help="prefill, decode or compress.")] = "prefill",
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a package that adds a method, with its passing test, to start from."""
    from sparsekernels.parameters import METHODS, Phase

    from orchestrator.skeletons.write import Skeleton

    if phase not in set(Phase):
        raise UserError(f"--phase is {phase!r}; it must be one of {', '.join(Phase)}")
    if name == "dense" or name in METHODS:
        raise UserError(f"there is a method {name!r} already; choose another name")
    density = "return min(1.0, self.token_budget / length_tokens)"
    if phase == Phase.PREFILL:
        density = (
            "read = min(self.token_budget, length_tokens)\n"
            "        pairs = read * (read + 1) / 2 + (length_tokens - read) * read\n"
            "        return pairs / (length_tokens * (length_tokens + 1) / 2)"
        )
    template = "select_prefill" if phase == Phase.PREFILL else "select_tokens"
    words = {"phase": phase, "PHASE": phase.upper(), "density": density}
    report_skeleton(Skeleton(kind="method", name=name, choices=words, chosen={template: "selection"}), out, as_json)


def _default(option: dict[str, Any]) -> str:
    return "required" if option["required"] else str(option["default"])


def describe(name: str) -> dict[str, Any]:
    """A method as JSON: `name, phase, budget, summary, from, options: [{name, type, required, default, meaning}]`.

    Raises ParameterError when the method's package is broken.
    """
    from sparsekernels.parameters import METHODS

    cls = METHODS[name]
    meanings = field_docstrings(cls)
    options = [
        {
            "name": option.name,
            "type": option.type.__name__ if isinstance(option.type, type) else str(option.type),
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
        "from": METHODS.plugin(name) or "frontier",
        "summary": summary,
        "options": options,
    }


def field_docstrings(cls: type) -> dict[str, str]:
    """The string literals that stand below a class's annotated fields, by field."""
    try:
        source = inspect.getsource(cls)
    except (OSError, TypeError):  # a package without its source
        return {}
    body = ast.parse(textwrap.dedent(source)).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, below in zip(body.body, body.body[1:], strict=False):
        is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and is_text:
            found[field.target.id] = " ".join(str(below.value.value).split())  # type: ignore[attr-defined]
    return found
