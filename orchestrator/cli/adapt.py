"""`frontier adapt`: train the parts of a method that needs training, on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.help import FrontierSubgroup
from orchestrator.cli.options import JsonOption
from orchestrator.cli.output import print_json
from orchestrator.errors import UserError

if TYPE_CHECKING:
    from workers.adapt.evaluate import HeldOut
    from workers.adapt.low_rank import LowRankRecipe
    from workers.adapt.pipeline import Plan, Progress, Trained

ModelFolder = Annotated[Path, typer.Option(help="Local model folder (see: frontier models pull).")]
Text = Annotated[str, typer.Option(help="A folder of .txt, .md, .rst, .py files, or 'python'.")]
Slots = Annotated[int, typer.Option(help="Cache slots per KV head: sinks + window + kept keys.")]
Window = Annotated[int | None, typer.Option(help="Slots for the most recent tokens; half of them if absent.")]
Sinks = Annotated[int, typer.Option(help="First tokens that always stay.")]
Length = Annotated[int, typer.Option(help="Tokens in a window of text.")]
Device = Annotated[str, typer.Option(help="cpu or cuda; cuda where there is one, if absent.")]

_ADAPT = typer.Typer(help="Train what a method needs: SparseK's scorers.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Adds the group `adapt`."""
    app.add_typer(_ADAPT, name="adapt", cls=FrontierSubgroup)


@_ADAPT.command("sparsek", epilog="Example: frontier adapt sparsek --model MODEL --out adapter")
def adapt_sparsek(
    model: ModelFolder,
    out: Annotated[Path, typer.Option(help="Folder for adapter, table and checkpoint; an earlier run continues.")],
    data: Text = "python",
    slots: Slots = 512,
    window: Window = None,
    sinks: Sinks = 4,
    length: Length = 1024,
    steps: Annotated[int, typer.Option(help="Optimizer steps; 0 leaves the warm start.")] = 60,
    batch: Annotated[int, typer.Option(help="Windows in a step.")] = 1,
    learning_rate: Annotated[float, typer.Option(help="Highest learning rate.")] = 5e-3,
    gating: Annotated[str, typer.Option(help="straight_through, values or keys_and_values.")] = "straight_through",
    objective: Annotated[str, typer.Option(help="local (cheap) or end_to_end.")] = "local",
    source: Annotated[str, typer.Option(help="values or values_and_key_pairs.")] = "values_and_key_pairs",
    windows: Annotated[tuple[int, int], typer.Option(help="Windows to train on, and for the table.")] = (32, 8),
    lora_rank: Annotated[int, typer.Option(min=0, help="Then adapt the backbone by LoRA, in as many steps.")] = 0,
    seed: Annotated[int, typer.Option(help="Of the windows that are drawn.")] = 0,
    device: Device = "",
    as_json: JsonOption = False,
) -> None:
    """Train SparseK's scorers: ridge warm start on attention mass, then the scorers alone; prints held-out losses."""
    _require_folder(model)
    where = _device(device)
    try:
        plan = _plan(
            data=data, out=out, slots=slots, window=window, sinks=sinks, length=length, steps=steps, batch=batch,
            learning_rate=learning_rate, gating=gating, objective=objective, source=source, seed=seed,
            windows=windows, lora_rank=lora_rank, on_gpu=where != "cpu",
        )  # fmt: skip
        trained = _run(model, where, plan)
    except ValueError as error:
        raise UserError(str(error)) from error
    if as_json:
        print_json({"adapter": str(trained.adapter), **_document(trained.table, slots), **_course(trained)})
    else:
        _print(trained, slots)


@_ADAPT.command("evaluate", epilog="Example: frontier adapt evaluate --model MODEL --adapter FILE --slots 256")
def adapt_evaluate(
    model: ModelFolder,
    adapter: Annotated[Path, typer.Option(help="An adapter that `frontier adapt sparsek` wrote for this model.")],
    data: Text = "python",
    slots: Slots = 512,
    window: Window = None,
    sinks: Sinks = 4,
    length: Length = 1024,
    windows: Annotated[int, typer.Option(min=2, help="Windows of held-out text.")] = 8,
    seed: Annotated[int, typer.Option(help="Of the windows that are drawn, and of random scores.")] = 0,
    device: Device = "",
    as_json: JsonOption = False,
) -> None:
    """Held-out losses of a trained adapter beside dense attention and six controls, with equally many slots."""
    _require_folder(model)
    where = _device(device)
    if slots >= length:
        raise UserError(f"--slots is {slots}; it must be below --length ({length}), or nothing is dropped")
    try:
        table = _evaluate(model, adapter, where, data, slots, window, sinks, length, windows, seed)
    except ValueError as error:
        raise UserError(str(error)) from error
    if as_json:
        print_json({"adapter": str(adapter), **_document(table, slots)})
    else:
        _print_table(table, slots)


def _evaluate(
    model: Path, adapter: Path, device: str, data: str, slots: int, window: int | None, sinks: int, length: int,
    windows: int, seed: int,
) -> list[HeldOut]:  # fmt: skip
    from sparsekernels.sparsek.attention import Impl
    from sparsekernels.sparsek.controls import split_slots

    from workers.adapt.pipeline import evaluate_adapter

    budget = split_slots(slots, sinks=sinks, window=window)
    with _shown_progress() as progress:
        return evaluate_adapter(
            model, adapter, device, data=data, budget=budget, length=length, num_windows=windows, seed=seed,
            impl=Impl.TORCH if device == "cpu" else Impl.TRITON, progress=progress,
        )  # fmt: skip


def _plan(*, slots: int, window: int | None, sinks: int, on_gpu: bool, **options: Any) -> Plan:
    from sparsekernels.sparsek.attention import Impl
    from sparsekernels.sparsek.controls import split_slots
    from sparsekernels.sparsek.definition import Gating
    from sparsekernels.sparsek.scorer import Source

    from workers.adapt.pipeline import Plan
    from workers.adapt.train import Objective, Recipe

    train_windows, held_out_windows = options["windows"]
    for name, value in (
        ("length", options["length"]),
        ("batch", options["batch"]),
        ("windows", min(options["windows"])),
    ):
        if value < 1:
            raise ValueError(f"--{name} is {value}; it must be at least 1")
    if slots >= options["length"]:
        raise ValueError(f"--slots is {slots}; it must be below --length ({options['length']}), or nothing is dropped")
    recipe = Recipe(
        budget=split_slots(slots, sinks=sinks, window=window),
        gating=_member("--gating", Gating, options["gating"]),
        objective=_member("--objective", Objective, options["objective"]),
        steps=options["steps"],
        batch=options["batch"],
        learning_rate=options["learning_rate"],
        seed=options["seed"],
        impl=Impl.TRITON if on_gpu else Impl.TORCH,
    )
    return Plan(
        data=options["data"],
        out=options["out"],
        recipe=recipe,
        length=options["length"],
        num_train=train_windows,
        num_held_out=held_out_windows,
        source=_member("--source", Source, options["source"]),
        eval_batch=8 if on_gpu else 1,
        low_rank=_low_rank(options) if options["lora_rank"] else None,
    )


def _low_rank(options: dict[str, Any]) -> LowRankRecipe:
    from workers.adapt.low_rank import LowRankRecipe, missing_package

    missing = missing_package()
    if missing is not None:
        raise ValueError(f"--lora-rank is {options['lora_rank']}; {missing}")
    if options["steps"] < 1:
        raise ValueError(f"--steps is {options['steps']}; with --lora-rank it must be at least 1")
    return LowRankRecipe(
        rank=options["lora_rank"], steps=options["steps"], batch=options["batch"], seed=options["seed"]
    )


def _member(option: str, kind: Any, text: str) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{option} is {text!r}; choose from {', '.join(kind)}") from None


def _run(model: Path, device: str, plan: Plan) -> Trained:
    from workers.adapt.pipeline import adapt, load_model

    with _shown_progress() as progress:
        loaded, tokenizer = load_model(model, device)
        return adapt(loaded, tokenizer, plan, progress)


@contextmanager
def _shown_progress() -> Iterator[Progress]:
    """Progress bars on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bars

    from workers.adapt.pipeline import Progress

    class Shown(Progress):
        def __init__(self, bars: Bars) -> None:
            self._bars, self._task = bars, bars.add_task("loading the model", total=None, note="")

        def stage(self, name: str, total: int | None = None) -> None:
            self._bars.update(self._task, total=1, completed=1)
            self._task = self._bars.add_task(name, total=total, note="")

        def advance(self, text: str = "") -> None:
            self._bars.update(self._task, advance=1, note=text)

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"))
    with Bars(*columns, console=Console(stderr=True)) as bars:
        yield Shown(bars)


def _course(trained: Trained) -> dict[str, Any]:
    return {"warm_start_r2": trained.explained, "training_losses": trained.losses}


def _document(table: list[HeldOut], slots: int) -> dict[str, Any]:
    """The held-out table for `--json`; losses in nats a token of rows beyond the first `slots`."""
    dense, sparsek = table[0], table[1]
    rows = [
        {
            "method": row.name,
            "slots": row.slots,
            "loss": row.loss,
            "perplexity": row.perplexity,
            "over_dense": row.over(dense)._asdict(),
            "over_sparsek": row.over(sparsek)._asdict(),
            "window_losses": list(row.losses),
        }
        for row in table
    ]
    return {"first_row": slots, "held_out": rows}


def _print(trained: Trained, slots: int) -> None:
    typer.echo(f"warm start explains {trained.explained:.2f} of the variance of log attention mass")
    _print_table(trained.table, slots)
    typer.echo(f"adapter: {trained.adapter}")


def _print_table(table: list[HeldOut], slots: int) -> None:
    typer.echo(f"held-out loss of tokens beyond the first {slots}, nats")
    typer.echo(
        f"{'method':14s} {'slots':>6s} {'loss':>8s} {'over dense':>17s} {'over sparsek':>17s} {'perplexity':>11s}"
    )
    dense, sparsek = table[0], table[1]
    for row in table:
        beside = "".join(f" {d.mean:8.4f} ± {d.standard_error:6.4f}" for d in (row.over(dense), row.over(sparsek)))
        typer.echo(f"{row.name:14s} {row.slots:6d} {row.loss:8.4f}{beside} {row.perplexity:11.3f}")


def _require_folder(model: Path) -> None:
    if not (model / "config.json").is_file():
        raise UserError(f"{model} is not a model folder: it has no config.json (see: frontier models pull)")


def _device(chosen: str) -> str:
    """The device to run on. Raises UserError when the packages for it are missing."""
    torch = _torch()
    return chosen or ("cuda" if torch.cuda.is_available() else "cpu")


def _torch() -> Any:
    try:
        import torch
        import transformers  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"training needs the engine's packages; {error.name} is missing (install the extra cpu or gpu)"
        ) from error
    return torch
