"""Shard cuts and ranks; corrections from outcomes; estimates of the end."""

from __future__ import annotations

import random
from dataclasses import replace
from math import exp

import pytest

from orchestrator.domain.cost_correction import Correction, Kind, Observation, learn
from orchestrator.domain.eta import WorkLeft, estimate, observed_use
from orchestrator.domain.fleet import parse_fleet
from orchestrator.domain.grid import Cell
from orchestrator.domain.ordering import cut_shards, prompt_set
from orchestrator.errors import UserError
from workers.engine import EngineSpec
from workers.protocol import TaskOrder

QUEST = {"decode": {"name": "quest", "token_budget": 1024}}
SNAPKV = {"compress": {"name": "snapkv", "token_capacity": 1024}}
BLOCK = {"prefill": {"name": "block_sparse", "top_blocks": 64}}


def cell(
    label: str, method: dict[str, dict[str, object]] | None = None, *, length: int = 4096, samples: int = 100
) -> Cell:
    return Cell(
        key=f"{label}-{length}",
        model_name="m",
        engine=EngineSpec(model="m", max_model_len=8192),
        task=TaskOrder(name="ruler_niah", version=1, parameters={"num_queries": 4}),
        task_label="ruler_niah",
        length_tokens=length,
        seed=43,
        num_samples=samples,
        method=method or {},
        method_label=label,
        max_output_tokens=100,
    )


def test_shards_cover_every_sample_once() -> None:
    cells = [cell("dense"), cell("quest", QUEST, samples=37), cell("dense", length=2048)]
    shards = cut_shards(cells, lambda c: c.length_tokens / 100)
    for one in cells:
        covered = [i for s in shards if s.cell is one for i in range(s.first_index, s.first_index + s.num_samples)]
        assert sorted(covered) == list(range(one.num_samples))
    assert sorted(s.rank for s in shards) == list(range(len(shards)))


def test_longest_first_and_paired() -> None:
    """All methods of the same prompts stand together; within them those that share a dense prefill come first."""
    cells = [cell("block", BLOCK), cell("snapkv", SNAPKV), cell("quest", QUEST), cell("dense")]
    long = [cell("dense", length=8192)]
    shards = cut_shards([*cells, *long], lambda c: c.length_tokens / 1000, shard_samples=50)
    order = [(s.cell.method_label, s.cell.length_tokens, s.first_index) for s in sorted(shards, key=lambda s: s.rank)]
    assert order[:2] == [("dense", 8192, 0), ("dense", 8192, 50)]
    assert [label for label, _, _ in order[2:6]] == ["dense", "quest", "block", "snapkv"]
    assert {first for _, _, first in order[2:6]} == {0}


def test_every_further_length_is_tried_early_with_one_range() -> None:
    """So that a forecast after a tenth of the work has seen each length of an engine."""
    cells = [cell(label, length=length) for length in (1024, 2048, 8192) for label in ("dense",)]
    other = [replace(c, seed=44) for c in cells]
    shards = cut_shards([*cells, *other], lambda c: c.length_tokens / 1000, shard_samples=50)
    order = [(s.cell.length_tokens, s.cell.seed, s.first_index) for s in sorted(shards, key=lambda s: s.rank)]
    assert order[:2] == [(8192, 43, 0), (8192, 43, 50)]
    assert order[2:4] == [(2048, 43, 0), (1024, 43, 0)]
    assert order[4:6] == [(8192, 44, 0), (8192, 44, 50)]
    assert [length for length, _, _ in order[6:]] == [2048] * 3 + [1024] * 3
    assert [s.rank for s in shards] == list(range(len(shards)))


def test_shard_length_follows_the_target() -> None:
    shards = cut_shards([cell("dense")], lambda c: 30.0, target_seconds=600.0)
    assert [s.num_samples for s in shards] == [20] * 5
    assert all(s.seconds == 600.0 for s in shards)


def test_paired_shards_stay_within_the_cache() -> None:
    cells = [cell("dense"), cell("quest", QUEST)]
    assert {s.num_samples for s in cut_shards(cells, lambda c: 1.0, cached_prompts=lambda c: 10)} == {10}
    assert {s.num_samples for s in cut_shards(cells, lambda c: 1.0, cached_prompts=lambda c: 1)} == {100}
    assert {s.num_samples for s in cut_shards(cells[:1], lambda c: 1.0, cached_prompts=lambda c: 10)} == {100}


def test_prompt_set_ignores_the_method_only() -> None:
    assert prompt_set(cell("dense")) == prompt_set(cell("quest", QUEST))
    assert prompt_set(cell("dense")) != prompt_set(cell("dense", length=2048))


def observed(kind: Kind, samples: int, predicted: float, ratio: float) -> Observation:
    return Observation(
        kind=kind,
        num_samples=samples,
        predicted_seconds=samples * predicted,
        observed_seconds=samples * predicted * ratio,
    )


def kind(model: str = "a", length: int = 4096, method: str = "dense", task: str = "t") -> Kind:
    return Kind(model=model, length_tokens=length, method=method, task=task)


def test_nothing_seen_corrects_nothing() -> None:
    assert learn([]).factor(kind()) == 1.0
    assert learn([observed(kind(), 0, 1.0, 2.0)]) == Correction()


def test_a_constant_error_is_learned() -> None:
    seen = [observed(kind(model=m, task=t), 50, 2.0, 1.5) for m in "ab" for t in ("t", "u")]
    assert learn(seen).factor(kind(model="b", task="u")) == pytest.approx(1.5, rel=0.02)


def test_effects_carry_over_to_unseen_combinations() -> None:
    """Model b is 2× slower than predicted, method quest 3×; their combination was never seen."""
    seen = [
        observed(kind(model="a", method="dense"), 100, 1.0, 1.0),
        observed(kind(model="b", method="dense"), 100, 1.0, 2.0),
        observed(kind(model="a", method="quest"), 100, 1.0, 3.0),
    ]
    assert learn(seen).factor(kind(model="b", method="quest")) == pytest.approx(6.0, rel=0.25)


def test_doubt_shrinks_with_what_was_seen() -> None:
    left = [WorkLeft(kind=kind(task=t), num_samples=100, predicted_seconds=1000.0) for t in "tuv"]
    before = estimate(left, [], num_gpus=1)
    after = estimate(left, [observed(kind(task=t), 30, 10.0, 1.2) for t in "tuv"], num_gpus=1)
    assert before.low_seconds < after.low_seconds < after.seconds < after.high_seconds < before.high_seconds
    assert after.seconds == pytest.approx(3000 * 1.2 / 0.95, rel=0.05)


def test_nothing_left_takes_no_time() -> None:
    assert estimate([], [], num_gpus=8).seconds == 0.0


def test_use_starts_at_the_prior_and_follows_the_record() -> None:
    assert observed_use(0, 0) == pytest.approx(0.95)
    assert observed_use(80_000, 100_000) == pytest.approx(0.80, abs=0.01)


@pytest.mark.parametrize("seed", range(4))
def test_backtest_on_noisy_cells(seed: int) -> None:
    """Engines that differ from our formulas by model, length, method and task: after a tenth of each kind of work
    the rest is known within 15 %, after a half within 7 %."""
    rng = random.Random(seed)
    bias: dict[object, float] = {}

    def truth(one: Kind) -> float:
        parts = [one.model, (one.model, one.length_tokens), one.method, one.task]
        return exp(sum(bias.setdefault(p, rng.gauss(0, 0.25)) for p in parts) + rng.gauss(0, 0.1))

    kinds = [
        kind(m, length, method, task)
        for m in "abcd"
        for length in (16, 32, 64, 128)
        for method in ("dense", "quest 1", "quest 2", "block 1", "block 2")
        for task in "tuvwxyz"
    ]
    seconds = {one: (one.length_tokens / 16 * 100.0, truth(one)) for one in kinds}
    order = sorted(kinds, key=lambda k: rng.random())
    actual = sum(base * ratio for base, ratio in seconds.values())
    for share, bound in ((0.1, 0.15), (0.5, 0.07)):
        done, seen = 0.0, []
        for one in order:
            if done >= share * actual:
                break
            base, ratio = seconds[one]
            done += base * ratio
            seen.append(observed(one, 100, base / 100, ratio))
        names = {o.kind for o in seen}
        left = [WorkLeft(kind=k, num_samples=100, predicted_seconds=seconds[k][0]) for k in kinds if k not in names]
        found = estimate(left, seen, num_gpus=1, use=1.0)
        remaining = actual - done
        assert abs(found.seconds - remaining) / remaining < bound
        assert found.low_seconds < remaining < found.high_seconds


def test_fleets() -> None:
    fleet = parse_fleet("2x8xH200, 4xa100")
    assert [(g.num_nodes, g.gpus_per_node, g.gpu.name) for g in fleet.groups] == [(2, 8, "H200"), (1, 4, "A100")]
    assert (fleet.num_gpus, len(fleet.nodes()), str(fleet)) == (20, 3, "2x8xH200,1x4xA100")
    for wrong in ("8x", "8x8x8xH100", "0xH100", ""):
        with pytest.raises(UserError, match="fleet"):
            parse_fleet(wrong)
