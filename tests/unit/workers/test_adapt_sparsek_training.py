"""Training of SparseK scorers on a small random Llama: warm start, steps, resume, slopes, the whole pipeline."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from sparsekernels.sparsek.adapter import load_adapter  # noqa: E402
from sparsekernels.sparsek.attention import Impl  # noqa: E402
from sparsekernels.sparsek.controls import split_slots  # noqa: E402
from sparsekernels.sparsek.definition import Gating  # noqa: E402
from sparsekernels.sparsek.scorer import Source, features  # noqa: E402

from tests.support.words import WordTokenizer, write_documents  # noqa: E402
from workers.adapt import text  # noqa: E402
from workers.adapt import train as training  # noqa: E402
from workers.adapt.attend import Adapted, Dense, Scored, attention  # noqa: E402
from workers.adapt.evaluate import window_losses  # noqa: E402
from workers.adapt.pipeline import Plan, Progress, adapt  # noqa: E402
from workers.adapt.slopes import Captured, choose_slopes  # noqa: E402
from workers.adapt.train import Objective, Recipe, train  # noqa: E402
from workers.adapt.warm_start import warm_start  # noqa: E402

BUDGET = split_slots(24, sinks=2)


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=97,
        max_position_embeddings=128,
        initializer_range=0.3,
    )
    return transformers.LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def windows() -> Any:
    return torch.randint(0, 97, (5, 64), generator=torch.Generator().manual_seed(1))


def start(model: Any, windows: Any) -> Any:
    return warm_start(model, windows[:3], Source.VALUES, window=BUDGET.window, sinks=BUDGET.sinks)


def test_dense_policy_is_the_models_own_attention(model: Any, windows: Any) -> None:
    with torch.no_grad():
        want = model(input_ids=windows).logits
        with attention(model, Dense()):
            found = model(input_ids=windows, use_cache=False).logits
        again = model(input_ids=windows).logits
    assert torch.allclose(found, want, atol=1e-4)
    assert torch.equal(again, want)


def test_warm_start_explains_targets_and_has_the_intended_spread(model: Any, windows: Any) -> None:
    found = start(model, windows)
    assert 0.0 < float(found.explained.mean()) <= 1.0
    values = torch.randn(1, 2, 200, 8)
    z = features(values, values, Source.VALUES)
    u = found.scorers(0, found.scorers.mean[0][:, None] + found.scorers.deviation[0][:, None] * z)
    assert 1.0 < float(u.detach().std(-1).mean()) < 9.0


def test_adapter_scores_like_its_scorers_up_to_a_constant(model: Any, windows: Any) -> None:
    scorers = start(model, windows).scorers
    adapter = scorers.to_adapter("f", {})
    keys, values = torch.randn(2, 2, 20, 4 * 2)
    mine = adapter.score(1, keys, values, torch.arange(20))
    theirs = scorers(1, features(keys, values, Source.VALUES)[None])[0].detach()
    assert float((mine - theirs).std(-1).max()) < 1e-4


@pytest.mark.parametrize("objective", list(Objective))
def test_training_lowers_its_loss_and_resumes_to_the_same_numbers(
    model: Any, windows: Any, objective: Objective, tmp_path: Path
) -> None:
    recipe = Recipe(budget=BUDGET, steps=8, batch=2, objective=objective, learning_rate=0.03)
    whole = start(model, windows).scorers
    losses = train(model, whole, windows[:2], recipe, checkpoint=tmp_path / "a.pt")
    assert losses[-1] < losses[0]
    halves = start(model, windows).scorers
    path = tmp_path / "b.pt"

    def stop(step: int, _: float) -> None:
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(model, halves, windows[:2], recipe, checkpoint=path, save_every=4, progress=stop)
    fresh = start(model, windows).scorers
    assert train(model, fresh, windows[:2], recipe, checkpoint=path) == pytest.approx(losses, rel=1e-4)
    assert torch.allclose(fresh.direction, whole.direction, atol=1e-4)
    with pytest.raises(ValueError, match="another recipe"):
        train(model, fresh, windows[:2], replace(recipe, seed=9), checkpoint=path)


def test_end_to_end_gradient_is_that_of_the_whole_windows_loss(
    model: Any, windows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe(budget=BUDGET, steps=1, objective=Objective.END_TO_END, kl_weight=0.7)
    scorers = start(model, windows).scorers
    monkeypatch.setattr(training, "LOGIT_ROWS", 17)
    ids = windows[:2]
    found = training._step(model.requires_grad_(False), scorers, ids, recipe)
    in_parts = scorers.direction.grad.clone()
    scorers.zero_grad(set_to_none=True)
    with attention(model, Scored(scorers, BUDGET, recipe.gating, Impl.TORCH)):
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1].log_softmax(-1)
    target = model(input_ids=ids, use_cache=False).logits[:, :-1].log_softmax(-1)
    entropy = torch.nn.functional.nll_loss(logits.flatten(0, 1), ids[:, 1:].flatten())
    whole = entropy + 0.7 * (target.exp() * (target - logits)).sum(-1).mean()
    whole.backward()
    assert found == pytest.approx(float(whole), rel=1e-5)
    assert torch.allclose(in_parts, scorers.direction.grad, atol=1e-6, rtol=1e-4)


def test_masked_shortcut_equals_the_blocks(model: Any, windows: Any) -> None:
    scorers = start(model, windows).scorers
    policy = Scored(scorers, BUDGET, Gating.STRAIGHT_THROUGH, Impl.TORCH)
    with attention(model, policy):
        blocks = model(input_ids=windows[:1], use_cache=False).logits.detach()
        with torch.no_grad():
            masked = model(input_ids=windows[:1], use_cache=False).logits
    assert torch.allclose(blocks, masked, atol=2e-4)


def test_chosen_slopes_capture_at_least_as_much_as_any_single_one(model: Any, windows: Any) -> None:
    adapter = start(model, windows).scorers.to_adapter("f", {})
    chosen = choose_slopes(model, adapter, windows[:2], BUDGET)
    captured = Captured(adapter, BUDGET, torch.ones(2, 2))
    with torch.no_grad(), attention(model, captured):
        model.model(input_ids=windows[:1], use_cache=False)
    assert bool((captured.mass > 0).all())
    assert bool((captured.mass <= 64 - BUDGET.slots + 1e-3).all())
    assert bool((chosen.slope > 0).all())
    assert chosen.facts["slope_windows"] == 2


def test_pipeline_leaves_adapter_table_and_continues(model: Any, tmp_path: Path) -> None:
    write_documents(tmp_path / "text")
    recipe = Recipe(budget=BUDGET, steps=2)
    plan = Plan(
        data=str(tmp_path / "text"), out=tmp_path / "out", recipe=recipe, length=64, num_train=6, num_held_out=2
    )
    trained = adapt(model, WordTokenizer(), plan, Progress())
    adapter = load_adapter(trained.adapter)
    assert [row.name for row in trained.table][:2] == ["dense", "sparsek"]
    held_out = torch.from_numpy(text.TokenWindows.load(tmp_path / "out" / "windows.npz").held_out)
    policy = Adapted(adapter, BUDGET, Gating.STRAIGHT_THROUGH, Impl.TORCH)
    again = window_losses(model, policy, held_out, first_row=BUDGET.slots)
    assert float(again.mean()) == pytest.approx(trained.table[1].loss, abs=1e-5)
    assert adapt(model, WordTokenizer(), plan, Progress()).losses == trained.losses
    assert "6 + 2 windows" in adapter.facts["data"]


def test_text_is_split_by_document_and_bad_sources_are_named(tmp_path: Path) -> None:
    write_documents(tmp_path / "text")
    drawn = text.token_windows(str(tmp_path / "text"), WordTokenizer(), length=64, num_train=8, num_held_out=4, seed=0)
    assert drawn.train.shape == (8, 64)
    train_rows, held_rows = ({tuple(row) for row in part.tolist()} for part in (drawn.train, drawn.held_out))
    assert not train_rows & held_rows
    with pytest.raises(text.TextError, match="not a folder of text"):
        list(text.documents("nowhere"))
    with pytest.raises(ValueError, match="held-out windows of 5000"):
        text.token_windows(str(tmp_path / "text"), WordTokenizer(), length=5000, num_train=1, num_held_out=1, seed=0)
