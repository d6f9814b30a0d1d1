"""Optional second stage: low-rank adaptation (LoRA, arXiv 2106.09685) of the backbone to sparse attention, by peft.

The scorers stay as they are. Only the query and output projections learn, so that keys, values and with them the
adapter's model fingerprint stay valid. The same recipe under dense attention is the control: what it gains, text and
steps gave, not sparsity.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workers.adapt.attend import Policy, attention
from workers.adapt.train import batch_of_step

TARGETS = ("q_proj", "o_proj")
"""Modules that learn; keys and values keep their projections."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LowRankRecipe:
    """Everything that decides the adapted weights, besides model, data and attention."""

    rank: int
    steps: int
    batch: int = 1
    learning_rate: float = 2e-4
    seed: int = 0


def missing_package() -> str | None:
    """Why this stage cannot run here, or None."""
    try:
        import peft  # noqa: F401
    except ImportError as error:
        return f"low-rank adaptation needs {error.name or 'peft'}; install the extra `adapt`"
    return None


def fine_tune(
    model: Any,
    policy: Policy,
    windows: Tensor,
    recipe: LowRankRecipe,
    *,
    progress: Callable[[int, float], None] = lambda step, loss: None,
) -> Any:
    """`model` with low-rank weights trained by next-token loss under `policy` on `windows` [N, n], as a peft model.

    `model` itself is wrapped, not copied: `unload` gives it back. Equal seeds give equal weights on one machine.
    """
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(recipe.seed)
    config = LoraConfig(r=recipe.rank, lora_alpha=2 * recipe.rank, target_modules=list(TARGETS), lora_dropout=0.0)
    adapted = get_peft_model(model, config)
    trained = [weight for weight in adapted.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=recipe.learning_rate, weight_decay=0.0)
    with attention(model, policy):
        for step in range(recipe.steps):
            ids = batch_of_step(windows, step, recipe.batch, recipe.seed).to(model.device).long()
            optimizer.zero_grad(set_to_none=True)
            loss = next_token_loss(adapted(input_ids=ids, use_cache=False).logits, ids)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            progress(step + 1, float(loss.detach()))
    return adapted.eval()


def next_token_loss(logits: Tensor, ids: Tensor) -> Tensor:
    """Mean cross-entropy of each token given those before it, nats."""
    return torch.nn.functional.cross_entropy(logits[:, :-1].float().flatten(0, 1), ids[:, 1:].flatten())


def merge_into(folder: Path, weights: Path, tokenizer: Any, target: Path) -> None:
    """Write the model in `folder` with the low-rank weights in `weights` added, as a model folder of its own."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", local_files_only=True)
    merged = PeftModel.from_pretrained(base, weights).merge_and_unload()
    merged.save_pretrained(target)
    tokenizer.save_pretrained(target)
