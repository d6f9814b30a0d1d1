"""`frontier adapt sparsek` from model folder to adapter file and held-out table."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from sparsekernels.sparsek.adapter import Adapter, fingerprint_model, fingerprint_tensors, load_adapter, save_adapter
from sparsekernels.sparsek.attention import Impl
from sparsekernels.sparsek.controls import Control
from sparsekernels.sparsek.definition import Gating
from sparsekernels.sparsek.pattern import Budget
from sparsekernels.sparsek.scorer import Source
from torch import Tensor

from workers.adapt.attend import Adapted, Dense, Policy
from workers.adapt.evaluate import HeldOut, evaluate, held_out_row
from workers.adapt.low_rank import LowRankRecipe, fine_tune, merge_into
from workers.adapt.slopes import choose_slopes
from workers.adapt.text import TokenWindows, token_windows
from workers.adapt.train import Recipe, train
from workers.adapt.warm_start import warm_start

ADAPTER_FILE = "adapter.safetensors"
TABLE_FILE = "held_out.json"
MODEL_FOLDER = "model"
"""The backbone adapted to SparseK, ready for a campaign."""
NUM_POLICIES = 2 + len(Control)
"""Rows of the held-out table: dense, SparseK and the controls."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One training, besides the model."""

    data: str
    """`python` (see `workers.adapt.text`) or a folder of text files."""
    out: Path
    recipe: Recipe
    length: int = 1024
    """Tokens in a window."""
    num_train: int = 32
    num_held_out: int = 8
    num_warm_start: int = 8
    """Training windows that the ridge regression sees."""
    num_slopes: int = 3
    """Training windows that the choice of slopes sees."""
    source: Source = Source.VALUES_AND_KEY_PAIRS
    eval_batch: int = 1
    low_rank: LowRankRecipe | None = None
    """A second stage that adapts the backbone, with its dense control."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What a training leaves behind."""

    adapter: Path
    table: list[HeldOut]
    explained: float
    """Mean R² of the warm start over layers and KV heads."""
    losses: list[float]


class Progress:
    """Callbacks of a training; the base class is silent."""

    def stage(self, name: str, total: int | None = None) -> None:
        """A stage begins; `total` units of it, if known."""

    def advance(self, text: str = "") -> None:
        """One more unit of the present stage."""


def load_model(folder: Path, device: str) -> tuple[Any, Any]:
    """Model (float32 on a CPU, bfloat16 on a GPU) and tokenizer of a local folder."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return model.eval().to(device), tokenizer


def windows_of(plan: Plan, tokenizer: Any) -> TokenWindows:
    """The windows that an earlier run of `plan.out` drew, or new ones, kept there."""
    path = plan.out / "windows.npz"
    if not path.exists():
        drawn = token_windows(
            plan.data,
            tokenizer,
            length=plan.length,
            num_train=plan.num_train,
            num_held_out=plan.num_held_out,
            seed=plan.recipe.seed,
        )
        drawn.save(path)
    return TokenWindows.load(path)


def adapt(model: Any, tokenizer: Any, plan: Plan, progress: Progress) -> Trained:
    """Warm start, training, slopes, adapter file, held-out table. Continues from a checkpoint in `plan.out`."""
    plan.out.mkdir(parents=True, exist_ok=True)
    progress.stage("reading text")
    windows = windows_of(plan, tokenizer)
    training, held_out = torch.from_numpy(windows.train).long(), torch.from_numpy(windows.held_out).long()
    recipe = plan.recipe
    progress.stage("warm start: ridge regression on attention mass")
    start = warm_start(
        model, training[: plan.num_warm_start], plan.source, window=recipe.budget.window, sinks=recipe.budget.sinks
    )
    progress.stage("training the scorers", recipe.steps)
    report: Callable[[int, float], None] = lambda step, loss: progress.advance(f"loss {loss:.4f}")  # noqa: E731
    losses = train(model, start.scorers, training, recipe, checkpoint=plan.out / "checkpoint.pt", progress=report)
    explained = float(start.explained.mean())
    facts = {"data": windows.description, "recipe": str(recipe), "warm_start_r2": round(explained, 4)}
    progress.stage("choosing slopes by captured attention")
    trained = start.scorers.to_adapter(fingerprint_tensors(model.state_dict()), facts)
    adapter = choose_slopes(model, trained, training[: plan.num_slopes], recipe.budget, impl=recipe.impl)
    path = plan.out / ADAPTER_FILE
    save_adapter(adapter, path)
    progress.stage("held-out losses", NUM_POLICIES)
    table = evaluate(
        model,
        adapter,
        held_out,
        recipe.budget,
        recipe.gating,
        impl=recipe.impl,
        seed=recipe.seed,
        batch=plan.eval_batch,
        progress=progress.advance,
    )
    if plan.low_rank is not None:
        table += _low_rank_rows(model, tokenizer, adapter, plan, plan.low_rank, training, held_out, progress)
    _write(plan, table, explained, losses, windows.description)
    return Trained(path, table, explained, losses)


def _low_rank_rows(
    model: Any,
    tokenizer: Any,
    adapter: Adapter,
    plan: Plan,
    low_rank: LowRankRecipe,
    training: Tensor,
    held_out: Tensor,
    progress: Progress,
) -> list[HeldOut]:
    """The backbone adapted under SparseK (also as a model folder), and under dense attention by the same recipe."""
    recipe, rows = plan.recipe, []
    policies: dict[str, Policy] = {
        "sparsek+lora": Adapted(adapter, recipe.budget, recipe.gating, recipe.impl),
        "dense+lora": Dense(),
    }
    source = model.config.name_or_path
    for name, policy in policies.items():
        progress.stage(f"low-rank adaptation: {name}", low_rank.steps)
        report: Callable[[int, float], None] = lambda step, loss: progress.advance(f"loss {loss:.4f}")  # noqa: E731
        adapted = fine_tune(model, policy, training, low_rank, progress=report)
        rows.append(held_out_row(model, name, policy, held_out, recipe.budget, batch=plan.eval_batch))
        adapted.save_pretrained(plan.out / name)
        adapted.unload()
    progress.stage("writing the adapted model")
    merge_into(Path(source), plan.out / "sparsek+lora", tokenizer, plan.out / MODEL_FOLDER)
    return rows


def evaluate_adapter(
    folder: Path,
    adapter: Path,
    device: str,
    *,
    data: str,
    budget: Budget,
    length: int,
    num_windows: int,
    seed: int,
    impl: Impl,
    progress: Progress,
) -> list[HeldOut]:
    """The held-out table of an adapter on text of its own choice; documents that training may see are left out.

    Raises TextError for too little text and AdapterError for another model's adapter.
    """
    trained = load_adapter(adapter, model_fingerprint=fingerprint_model(folder))
    model, tokenizer = load_model(folder, device)
    progress.stage("reading text")
    text = token_windows(data, tokenizer, length=length, num_train=0, num_held_out=num_windows, seed=seed)
    progress.stage("held-out losses", NUM_POLICIES)
    held_out = torch.from_numpy(text.held_out).long()
    gating = Gating.STRAIGHT_THROUGH  # as the engine runs it
    return evaluate(model, trained, held_out, budget, gating, impl=impl, seed=seed, progress=progress.advance)


def _write(plan: Plan, table: list[HeldOut], explained: float, losses: list[float], data: str) -> None:
    record = {
        "data": data,
        "recipe": {k: str(v) for k, v in asdict(plan.recipe).items()},
        "source": str(plan.source),
        "warm_start_r2": explained,
        "losses": losses,
        "held_out": [{**row._asdict(), "loss": row.loss, "perplexity": row.perplexity} for row in table],
    }
    (plan.out / TABLE_FILE).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
