"""The optional second stage: LoRA of the backbone under SparseK, with a dense control."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("peft")

from sparsekernels.sparsek.adapter import fingerprint_model  # noqa: E402
from sparsekernels.sparsek.controls import split_slots  # noqa: E402

from tests.support.words import WordTokenizer, write_documents  # noqa: E402
from workers.adapt.attend import Dense, attention  # noqa: E402
from workers.adapt.evaluate import HeldOut, window_losses  # noqa: E402
from workers.adapt.low_rank import LowRankRecipe, fine_tune  # noqa: E402
from workers.adapt.pipeline import MODEL_FOLDER, Plan, Progress, adapt  # noqa: E402
from workers.adapt.train import Recipe  # noqa: E402

BUDGET = split_slots(24, sinks=2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=97, max_position_embeddings=128, initializer_range=0.3,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def load(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def test_training_lowers_the_loss_and_unloading_gives_the_model_back(folder: Path) -> None:
    model = load(folder)
    windows = torch.randint(0, 97, (4, 64), generator=torch.Generator().manual_seed(1))
    before = copy.deepcopy(model.state_dict())
    start = window_losses(model, Dense(), windows, first_row=1)
    losses: list[float] = []
    recipe = LowRankRecipe(rank=4, steps=12, batch=4, learning_rate=2e-2)
    adapted = fine_tune(model, Dense(), windows, recipe, progress=lambda step, loss: losses.append(loss))
    assert losses[-1] < losses[0]
    assert float(window_losses(model, Dense(), windows, first_row=1).mean()) < float(start.mean())
    adapted.unload()
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_pipeline_adds_both_rows_and_a_model_that_fits_the_adapter(folder: Path, tmp_path: Path) -> None:
    write_documents(tmp_path / "text")
    plan = Plan(
        data=str(tmp_path / "text"), out=tmp_path / "out", recipe=Recipe(budget=BUDGET, steps=1), length=64,
        num_train=6, num_held_out=2, low_rank=LowRankRecipe(rank=4, steps=6, batch=2, learning_rate=2e-2),
    )  # fmt: skip
    model = load(folder)
    rows = {row.name: row for row in adapt(model, WordTokenizer(), plan, Progress()).table}
    assert rows["dense+lora"].loss < rows["dense"].loss
    assert rows["sparsek+lora"].loss < rows["sparsek"].loss
    merged = tmp_path / "out" / MODEL_FOLDER
    # Keys and values keep their projections, so the adapter still belongs to the model.
    assert fingerprint_model(merged) == fingerprint_model(folder)
    ids = torch.arange(40)[None] % 97
    with torch.no_grad(), attention(model, Dense()):
        base = model(input_ids=ids, use_cache=False).logits
    assert not torch.allclose(load(merged)(input_ids=ids).logits, base)


def test_differences_are_paired() -> None:
    one, other = HeldOut("a", 8, (2.0, 3.0, 4.0)), HeldOut("b", 8, (1.0, 2.1, 2.9))
    assert one.over(other).mean == pytest.approx(1.0)
    assert one.over(other).standard_error == pytest.approx(0.1 / 3**0.5)
    assert one.over(one) == (0.0, 0.0)
