"""SparseK's scorers trained once and held against every control at several budgets, in one time box; writes JSON.

    python -m benchmarks.sparsek_training --model FOLDER --out FOLDER --length 8192 --slots 512 256 --output table.json

The stages of `frontier adapt sparsek` (ridge warm start, then the scorers alone, end to end, with the first budget),
then for each budget its own slopes, an adapter file, and held-out losses of dense attention, SparseK and the controls
over the rows beyond the largest budget, so that all rows of the table are about the same tokens. The rows that matter
most are measured first; what the time box has no room for is named. `--device cpu` tries it on a small model.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from sparsekernels.sparsek.adapter import Adapter, fingerprint_tensors, save_adapter
from sparsekernels.sparsek.attention import Impl
from sparsekernels.sparsek.controls import Control, control_budget, split_slots
from sparsekernels.sparsek.definition import Gating
from sparsekernels.sparsek.pattern import Budget
from sparsekernels.sparsek.scorer import Source

from workers.adapt.attend import Adapted, Controlled, Dense, Policy
from workers.adapt.evaluate import HeldOut, window_losses
from workers.adapt.pipeline import Plan, load_model, windows_of
from workers.adapt.slopes import choose_slopes
from workers.adapt.train import Objective, Recipe, train
from workers.adapt.warm_start import warm_start

FIRST = (Control.WINDOW_SINKS, Control.RANDOM, Control.VOTES)
"""Controls that are measured at every budget before the rest."""
DENSE, SPARSEK = "dense", "sparsek"


@dataclass(slots=True)
class Run:
    """Options, the clock, and what was found so far."""

    options: argparse.Namespace
    started: float = field(default_factory=time.monotonic)
    record: dict[str, Any] = field(default_factory=dict)
    rows: dict[tuple[str, int], HeldOut] = field(default_factory=dict)

    @property
    def impl(self) -> Impl:
        return Impl.TORCH if self.options.device == "cpu" else Impl.TRITON

    @property
    def first_row(self) -> int:
        """Rows before it are in no loss."""
        return max(self.options.slots)

    def stage(self, name: str) -> None:
        seconds = time.monotonic() - self.started
        self.record.setdefault("stages", []).append({"name": name, "at_seconds": round(seconds, 1)})
        print(f"{seconds:6.1f} s  {name}", flush=True)

    def time_is_up(self) -> bool:
        return time.monotonic() - self.started > self.options.seconds

    def save(self) -> None:
        self.record["held_out"] = [self.as_json(slots, row) for (_, slots), row in self.rows.items()]
        self.options.output.write_text(json.dumps(self.record, indent=1) + "\n", encoding="utf-8")

    def as_json(self, slots: int, row: HeldOut) -> dict[str, Any]:
        """A row with its paired differences to dense and to SparseK of the same budget."""
        found = {**row._asdict(), "loss": row.loss, "perplexity": row.perplexity}
        for name, other in ((DENSE, self.rows.get((DENSE, 0))), (SPARSEK, self.rows.get((SPARSEK, slots)))):
            if other is not None and other is not row:
                found[f"over_{name}"] = row.over(other)._asdict()
        return found


def budget_of(slots: int) -> Budget:
    return split_slots(slots)


def train_scorers(run: Run, model: Any, training: torch.Tensor) -> Adapter:
    """Warm start and end-to-end training with the first budget; the adapter's slopes are the trained ones."""
    options = run.options
    recipe = Recipe(
        budget=budget_of(options.slots[0]), gating=Gating.STRAIGHT_THROUGH, objective=Objective.END_TO_END,
        steps=options.steps, batch=options.batch, learning_rate=options.learning_rate, seed=options.seed, impl=run.impl,
    )  # fmt: skip
    run.stage("warm start: ridge regression on attention mass")
    plan_windows = training[: options.warm_start_windows]
    source = Source(options.source)
    start = warm_start(model, plan_windows, source, window=recipe.budget.window, sinks=recipe.budget.sinks)
    explained = float(start.explained.mean())
    run.stage(f"training the scorers, {options.steps} steps; the warm start explains {explained:.2f}")
    checkpoint = options.out / "checkpoint.pt"
    losses = train(model, start.scorers, training, recipe, checkpoint=checkpoint, save_every=options.steps)
    run.record |= {"recipe": str(recipe), "warm_start_r2": explained, "losses": losses}
    facts = {"data": run.record["data"], "recipe": str(recipe), "warm_start_r2": round(explained, 4)}
    return start.scorers.to_adapter(fingerprint_tensors(model.state_dict()), facts)


def measure(run: Run, model: Any, name: str, slots: int, policy: Policy, held_out: torch.Tensor) -> None:
    """One row of the table, unless the time is up."""
    if run.time_is_up():
        run.record.setdefault("not_measured", []).append(f"{name} at {slots} slots")
        return
    losses = window_losses(model, policy, held_out, first_row=run.first_row, batch=run.options.eval_batch)
    row = HeldOut(name, slots or held_out.shape[1], tuple(losses.tolist()))
    run.rows[name, slots] = row
    beside = ""
    for other, label in ((run.rows.get((DENSE, 0)), "dense"), (run.rows.get((SPARSEK, slots)), "sparsek")):
        if other is not None and other is not row:
            difference = row.over(other)
            beside += f"  over {label} {difference.mean:+.4f} ± {difference.standard_error:.4f}"
    run.stage(f"{name:12s} {row.slots:6d} slots  loss {row.loss:.4f}  perplexity {row.perplexity:.3f}{beside}")
    run.save()


def controlled(run: Run, control: Control, slots: int) -> Policy:
    return Controlled(control, control_budget(control, slots, budget_of(slots)), run.impl, run.options.seed)


def table(run: Run, model: Any, adapters: dict[int, Adapter], held_out: torch.Tensor) -> None:
    """Every row, those that decide first."""
    measure(run, model, DENSE, 0, Dense(), held_out)
    for slots, adapter in adapters.items():
        policy = Adapted(adapter, budget_of(slots), Gating.STRAIGHT_THROUGH, run.impl)
        measure(run, model, SPARSEK, slots, policy, held_out)
        for control in FIRST:
            measure(run, model, str(control), slots, controlled(run, control, slots), held_out)
    for control in Control:
        for slots in adapters:
            if control not in FIRST:
                measure(run, model, str(control), slots, controlled(run, control, slots), held_out)


def run_all(run: Run) -> None:
    options = run.options
    options.out.mkdir(parents=True, exist_ok=True)
    model, tokenizer = load_model(options.model, options.device)
    run.stage(f"loaded {options.model.name}")
    plan = Plan(
        data=options.data, out=options.out, length=options.length, num_train=options.windows[0],
        num_held_out=options.windows[1], recipe=Recipe(budget=budget_of(options.slots[0]), steps=0, seed=options.seed),
    )  # fmt: skip
    windows = windows_of(plan, tokenizer)
    run.record["data"] = f"{windows.description}; text as installed with Python {platform.python_version()}"
    training, held_out = torch.from_numpy(windows.train).long(), torch.from_numpy(windows.held_out).long()
    trained = train_scorers(run, model, training)
    adapters = {}
    for slots in options.slots:
        run.stage(f"choosing slopes for {slots} slots")
        seen = training[: options.slope_windows]
        adapters[slots] = choose_slopes(model, trained, seen, budget_of(slots), impl=run.impl)
        save_adapter(adapters[slots], options.out / f"adapter-{slots}.safetensors")
    run.stage(f"held-out losses of {len(held_out)} windows, rows {run.first_row} … {options.length - 1}")
    table(run, model, adapters, held_out)
    run.stage("done")
    run.save()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="local model folder")
    parser.add_argument("--out", type=Path, required=True, help="folder for windows, checkpoint and adapters")
    parser.add_argument("--output", type=Path, required=True, help="JSON file, written after every row")
    parser.add_argument("--data", default="python", help="as in frontier adapt sparsek")
    parser.add_argument("--slots", type=int, nargs="+", default=[512, 256], help="budgets; trained with the first")
    parser.add_argument("--length", type=int, default=8192, help="tokens in a window")
    parser.add_argument("--windows", type=int, nargs=2, default=(96, 16), help="to train on, and held out")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch", type=int, default=1, help="windows in a step")
    parser.add_argument("--learning-rate", type=float, default=5e-3)
    parser.add_argument("--source", default="values_and_key_pairs", choices=["values", "values_and_key_pairs"])
    parser.add_argument("--warm-start-windows", type=int, default=8)
    parser.add_argument("--slope-windows", type=int, default=3)
    parser.add_argument("--eval-batch", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=140.0, help="no further row is begun after that")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    options = parser.parse_args()
    if max(options.slots) >= options.length:
        parser.error(f"--slots {max(options.slots)} must be below --length {options.length}, or nothing is dropped")
    run = Run(options)
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    device = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    run.record |= {"device": device, "versions": versions, "options": {k: str(v) for k, v in vars(options).items()}}
    run.stage(device)
    run_all(run)


if __name__ == "__main__":
    main()
