"""Selections, adapters and controls: what inference needs of SparseK."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from sparsekernels.parameters import MethodChoice, ParameterError, Quest, SparseK
from sparsekernels.sparsek.adapter import (
    Adapter,
    AdapterError,
    fingerprint_model,
    fingerprint_tensors,
    load_adapter,
    save_adapter,
)
from sparsekernels.sparsek.controls import Control, attention_mass, control_budget, control_scores, split_slots
from sparsekernels.sparsek.definition import gates_and_kept
from sparsekernels.sparsek.pattern import Budget, window_mask
from sparsekernels.sparsek.scorer import Source, features
from sparsekernels.sparsek.selection import select_decode, select_prefill
from torch import Tensor


def scores(heads: int = 2, n: int = 90) -> Tensor:
    found = torch.randn(heads, n, generator=torch.Generator().manual_seed(0))
    found[:, ::7] = 0.5
    return found


def seen(u: Tensor, budget: Budget) -> Tensor:
    """bool [H, n, n] by brute force."""
    n = u.shape[1]
    rows = torch.arange(n)
    _, kept = gates_and_kept(u.double(), budget)
    return kept | window_mask(n, budget.window, rows) | ((rows < budget.sinks) & (rows <= rows[:, None]))


@pytest.mark.parametrize("sinks", [0, 3])
def test_prefill_selection_is_exact_row_by_row(sinks: int) -> None:
    budget = Budget(window=9, kept=12, sinks=sinks)
    selection = select_prefill(scores(), budget, 40)
    selection.validate([90])
    want = seen(scores(), budget)[:, 50:].transpose(0, 1)
    assert torch.equal(selection.dense_mask(40, 90), want)
    assert int(selection.counts.max()) == budget.slots


def test_a_row_block_freezes_the_kept_set_at_its_first_row() -> None:
    budget = Budget(window=9, kept=12, sinks=2)
    selection = select_prefill(scores(), budget, 90, row_block=16)
    selection.validate([90])
    mask, exact = selection.dense_mask(90, 90), seen(scores(), budget)
    assert torch.equal(mask[64], exact[:, 64])
    assert int(selection.counts.max()) <= budget.slots + 15
    assert bool(mask[70, :, 56:71].all())


@pytest.mark.parametrize("sinks", [0, 3])
def test_decode_reads_what_the_last_row_of_a_prefill_reads(sinks: int) -> None:
    budget = Budget(window=9, kept=12, sinks=sinks)
    want = seen(scores(), budget)
    for length in (1, 5, 9, 22, 60, 90):
        tokens, counts = select_decode(scores(), budget, length)
        for head in range(2):
            assert tokens[head, : counts[head]].tolist() == want[head, length - 1].nonzero().flatten().tolist()
        assert tokens.shape[1] == min(length, budget.slots)


def make_adapter(source: Source = Source.VALUES) -> Adapter:
    width = source.num_features(8)
    return Adapter(
        weight=torch.randn(3, 4, width),
        slope=torch.rand(3, 4),
        source=source,
        head_dim=8,
        model_fingerprint="f" * 64,
        facts={"seed": 1},
    )


@pytest.mark.parametrize("source", list(Source))
def test_adapter_survives_the_file_and_ranks_score_their_own_heads(source: Source, tmp_path: Path) -> None:
    adapter = make_adapter(source)
    save_adapter(adapter, tmp_path / "a.safetensors")
    loaded = load_adapter(tmp_path / "a.safetensors", model_fingerprint="f" * 64)
    assert loaded.facts == {"seed": 1}
    keys, values = torch.randn(2, 4, 11, 8)
    whole = loaded.score(1, keys, values, torch.arange(11))
    for size in (1, 2, 4, 8):
        copies = max(1, size // 4)
        parts = []
        for rank in range(0, size, copies):
            local = slice(rank * 4 // size, rank * 4 // size + max(1, 4 // size))
            parts.append(loaded.for_rank(rank, size).score(1, keys[local], values[local], torch.arange(11)))
        assert torch.equal(torch.cat(parts), whole)
    with pytest.raises(AdapterError, match="4 KV heads cannot be split over 3 ranks"):
        loaded.for_rank(0, 3)


def test_bad_adapters_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_adapter(make_adapter(), path)
    with pytest.raises(AdapterError, match=r"a\.safetensors was trained on model ffffffffffff, not on 0000"):
        load_adapter(path, model_fingerprint="0" * 64)
    save_adapter(replace(make_adapter(), weight=torch.randn(3, 4, 7)), path)
    with pytest.raises(AdapterError, match="last size must be 8"):
        load_adapter(path)
    save_adapter(replace(make_adapter(), slope=torch.full((3, 4), torch.nan)), path)
    with pytest.raises(AdapterError, match="not finite"):
        load_adapter(path)
    save_file({"x": torch.zeros(1)}, str(path))
    with pytest.raises(AdapterError, match="not a SparseK adapter"):
        load_adapter(path)
    with pytest.raises(AdapterError, match=r"nothing\.safetensors"):
        load_adapter(tmp_path / "nothing.safetensors")


def test_fingerprint_is_the_same_in_one_file_or_two_and_in_any_precision(tmp_path: Path) -> None:
    weights = {f"model.layers.{i}.self_attn.{p}_proj.weight": torch.randn(4, 6) for i in range(2) for p in "qkv"}
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    save_file(weights, str(one / "model.safetensors"))
    halves = [{k: v.bfloat16() for k, v in weights.items() if f".{i}." in k} for i in range(2)]
    for i, half in enumerate(halves):
        save_file(half, str(two / f"model-{i}.safetensors"))
    assert fingerprint_model(one) == fingerprint_model(two) == fingerprint_tensors(weights)
    weights["model.layers.1.self_attn.v_proj.weight"][0, 0] += 1
    assert fingerprint_tensors(weights) != fingerprint_model(one)
    with pytest.raises(AdapterError, match="no safetensors file"):
        fingerprint_model(tmp_path)


def test_key_features_do_not_change_under_rotation() -> None:
    keys, values = torch.randn(5, 8), torch.randn(5, 8)
    angle = torch.rand(4) * 6
    first, second = keys.chunk(2, -1)
    turned = torch.cat((first * angle.cos() - second * angle.sin(), first * angle.sin() + second * angle.cos()), -1)
    source = Source.VALUES_AND_KEY_PAIRS
    assert torch.allclose(features(keys, values, source), features(turned, values, source), atol=1e-6)


def test_controls_spend_the_same_slots() -> None:
    scored = split_slots(64)
    assert scored.slots == 64
    for control in Control:
        assert control_budget(control, 64, scored).slots == 64
    with pytest.raises(ValueError, match="8 slots leave nothing"):
        split_slots(8, window=4)


def test_attention_mass_is_that_of_the_attention_matrix() -> None:
    draw = torch.Generator().manual_seed(1)
    q, k = torch.randn(4, 30, 8, generator=draw), torch.randn(2, 30, 8, generator=draw)
    inside, beyond = attention_mass(q, k, 6, scale=0.3)
    row = torch.arange(30)
    for head in range(2):
        logits = q[2 * head : 2 * head + 2] @ k[head].T * 0.3
        shares = logits.masked_fill(row > row[:, None], -torch.inf).softmax(-1).mean(0) * (row[:, None] + 1)
        assert float(inside[head, 4]) == pytest.approx(float(shares[4:10, 4].mean()), rel=1e-4)
        assert float(beyond[head, 4]) == pytest.approx(float(shares[10:, 4].mean()), rel=1e-4)
    oracle = control_scores(Control.ORACLE, q, k, 6, scale=0.3, seed=0)
    assert torch.equal(oracle, beyond.log())
    one, two = (control_scores(Control.RANDOM, q, k, 6, scale=0.3, seed=s) for s in (1, 2))
    assert not torch.equal(one, two)


def test_sparsek_stands_in_prefill_and_rules_decode() -> None:
    method = SparseK(adapter="a.safetensors", slots=64)
    choice = MethodChoice(prefill=method)
    assert MethodChoice.from_wire(choice.to_wire()) == choice
    assert choice.rules_decode
    assert not choice.is_decode_dense
    assert (method.sink_size, method.recent, method.kept) == (4, 32, 28)
    with pytest.raises(ParameterError, match="sparsek decodes by itself; quest"):
        MethodChoice(prefill=method, decode=Quest(token_budget=64))
    with pytest.raises(ParameterError, match="slots is 8"):
        SparseK(adapter="a", slots=8)
    with pytest.raises(ParameterError, match="adapter is empty"):
        SparseK(adapter="", slots=64)
    assert MethodChoice().is_decode_dense
