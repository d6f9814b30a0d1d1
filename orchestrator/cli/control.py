"""`frontier pause|resume|cancel|requeue`: what a person does to a campaign."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli.options import JsonOption, StoreOption, campaigns_here, store_url
from orchestrator.cli.output import print_json
from orchestrator.errors import UserError
from workers.failures import FailureKind

NameArgument = Annotated[str, typer.Argument(help="The campaign.", metavar="NAME", autocompletion=campaigns_here)]


def register(app: typer.Typer) -> None:
    """Adds the four commands."""
    app.command("pause", epilog="Example: frontier pause my-campaign")(pause)
    app.command("resume", epilog="Example: frontier resume my-campaign")(resume)
    app.command("cancel", epilog="Example: frontier cancel my-campaign")(cancel)
    app.command("requeue", epilog="Example: frontier requeue my-campaign --kind timeout")(requeue)


def pause(name: NameArgument, store: StoreOption = None, as_json: JsonOption = False) -> int:
    """Give out no more work; what runs is finished or given back."""
    return _move("pause", name, store, as_json)


def resume(name: NameArgument, store: StoreOption = None, as_json: JsonOption = False) -> int:
    """Undo a pause."""
    return _move("resume", name, store, as_json)


def cancel(name: NameArgument, store: StoreOption = None, as_json: JsonOption = False) -> int:
    """End a campaign; what is recorded stays."""
    return _move("cancel", name, store, as_json)


def requeue(
    name: NameArgument,
    kind: Annotated[list[str] | None, typer.Option(help="Only failures of this kind; may be given again.")] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> int:
    """Run failed samples and shards again; the next `frontier run` takes them, or the one that runs now."""
    from orchestrator.store import control
    from orchestrator.store.session import open_store

    kinds = [_kind(k) for k in kind or ()]
    with open_store(store_url(store), create=False) as opened:
        done = control.requeue(opened, name, kinds)
    if as_json:
        print_json({"campaign": name, "failures_taken_back": done.num_outcomes, "shards_ready": done.num_shards})
    else:
        print(f"{name}: {done.num_outcomes} failures taken back, {done.num_shards} shards ready")
    return 0


def _move(action: str, name: str, store: str | None, as_json: bool) -> int:
    from orchestrator.store import control
    from orchestrator.store.session import open_store

    with open_store(store_url(store), create=False) as opened:
        state = {"pause": control.pause, "resume": control.resume, "cancel": control.cancel}[action](opened, name)
    if as_json:
        print_json({"campaign": name, "state": str(state)})
    else:
        print(f"{name}: {state}")
    return 0


def _kind(text: str) -> FailureKind:
    try:
        return FailureKind(text)
    except ValueError:
        raise UserError(f"--kind is {text!r}; it must be one of: {', '.join(FailureKind)}") from None
